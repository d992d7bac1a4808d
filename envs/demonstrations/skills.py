"""Short clips of robot skills whose label needs their motion: every skill is another one played backwards.

Each episode performs one motion in the simulator. The motions of a skill and of its partner are drawn alike;
then the partner's frames are put in reverse order. So the frames of both, one by one, have the same
distribution, and a classifier of single frames stays at chance within a pair. An episode for training gives
two clips, its own skill's and, in the opposite order, its partner's; one for testing gives its own alone, so
that test clips are independent of each other.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fibo_robot.envs.demonstrations.experts.arm import CLOSE, OPEN, ArmState, Pose, heading, servo
from fibo_robot.envs.demonstrations.experts.lift import LiftExpert
from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.demonstrations.pool import map_with_environment
from fibo_robot.envs.rollouts.videos import encode_mp4, write_video
from fibo_robot.envs.tasks import get_task
from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_json

if TYPE_CHECKING:
    from fibo_robot.envs.simulation.environment import SimulationEnv

FRAMES = 16
_STEPS_PER_FRAME = 2
FPS = 10  # control frequency / steps per frame: clips play in real time
_CAMERA = "agentview"
_TEST_EVERY = 4  # one episode in four is for testing


class SkillError(FiboError):
    """A skill could not be performed."""


@dataclass(frozen=True)
class ClipSettings:
    """What a folder of clips depends on.

    Attributes:
        episodes_per_class: motions performed for every skill.
        seed: of the first episode.
        image_size: pixels of a frame's side.
        renderer: a resolved renderer.
    """

    episodes_per_class: int
    seed: int
    image_size: int
    renderer: str


@dataclass(frozen=True)
class Skill:
    """One class of clips: a motion, forwards or backwards."""

    label: str
    motion: "Callable[[SimulationEnv, np.random.Generator], Iterator[None]]"
    backwards: bool


@dataclass(frozen=True)
class Clip:
    """One file: whose skill it shows, for training or for testing."""

    label: str
    path: Path


@dataclass(frozen=True)
class Episode:
    """One motion to perform, and the clips it gives: its own skill's first, then perhaps its partner's."""

    seed: int
    clips: tuple[Clip, ...]


def record_skills(
    folder: Path | str,
    episodes_per_class: int,
    seed: int = 0,
    image_size: int = 96,
    renderer: str = "auto",
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Record clips of every skill as `train/*.mp4` and `test/*.mp4`; an interrupted run continues.

    Args:
        folder: where to.
        episodes_per_class: motions performed for every skill, at least four; every fourth is for testing.
        seed: of the first episode.
        image_size: pixels of a square frame's side, even.
        renderer: `auto`, `egl`, `osmesa` or `warp`.
        workers: processes.
        progress: called with the episodes done and wanted.

    Returns:
        `clips.csv`, with the columns path (relative to the folder), label and split; written at the end.

    Raises:
        DatasetError: if clips with other settings lie in the folder, or there are fewer than four a class.
    """
    if episodes_per_class < _TEST_EVERY or image_size % 2:
        raise DatasetError(f"Skills need at least {_TEST_EVERY} episodes per class and an even image size.")
    folder = Path(folder)
    task = get_task("lift", renderer=renderer, image_size=image_size).resolved()
    settings = asdict(ClipSettings(episodes_per_class, seed, image_size, task.renderer))
    described = folder / "settings.json"
    if described.exists():
        if json.loads(described.read_text(encoding="utf-8")) != settings:
            raise DatasetError(
                f"{folder} holds clips with other settings; delete it or choose another folder."
            )
    else:
        write_json(described, settings)
    episodes = _plan(episodes_per_class, seed)
    todo = [e for e in episodes if not all((folder / clip.path).exists() for clip in e.clips)]
    done = len(episodes) - len(todo)
    progress(done, len(episodes))
    record = partial(_record_episode, folder=folder)
    for _ in map_with_environment(record, todo, task, (), workers) if todo else ():
        done += 1
        progress(done, len(episodes))
    table = folder / "clips.csv"
    with replace_atomically(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        clips = (clip for episode in episodes for clip in episode.clips)
        writer.writerows([clip.path.as_posix(), clip.label, clip.path.parent.name] for clip in clips)
    return table


def _plan(episodes_per_class: int, seed: int) -> list[Episode]:
    episodes = []
    for index in range(episodes_per_class):
        testing = index % _TEST_EVERY == _TEST_EVERY - 1
        for skill in SKILLS:
            number = seed + len(episodes)
            split = Path("test" if testing else "train")
            own, other = (
                Clip(label, split / f"{label}_{number:06d}.mp4")
                for label in (skill.label, partner_of(skill).label)
            )
            episodes.append(Episode(number, (own,) if testing else (own, other)))
    return episodes


def _record_episode(env: "SimulationEnv", episode: Episode, folder: Path) -> None:
    frames = perform_skill(env, episode.clips[0].label, episode.seed)
    for clip, ordered in zip(episode.clips, (frames, frames[::-1])):
        target = folder / clip.path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_video(target, encode_mp4(ordered, FPS))


def perform_skill(env: "SimulationEnv", label: str, seed: int) -> list[np.ndarray]:
    """The frames of one clip, uint8 `(H, W, 3)`, in playing order.

    Raises:
        SkillError: if the motion fails from several starts.
    """
    skill = next(skill for skill in SKILLS if skill.label == label)
    size = env.task.image_size
    for attempt in range(5):
        generator = np.random.default_rng([seed, attempt])
        env.start(int(generator.integers(2**31)))
        frames = []
        for step, _ in enumerate(skill.motion(env, generator)):
            if step % _STEPS_PER_FRAME == 0:
                frames.append(env.render_image(_CAMERA, size, size))
        if len(frames) == FRAMES:
            return frames[::-1] if skill.backwards else frames
    raise SkillError(f"The skill {label} failed five times from seed {seed}.")


def _glide(env: "SimulationEnv", goal: np.ndarray, yaw: float, gripper: float, steps: int) -> Iterator[None]:
    # A straight line at constant speed, `steps` control steps long: aim a little ahead on it each time.
    start = ArmState.of(env).position
    for step in range(1, steps + 1):
        yield
        arm = ArmState.of(env)
        env.advance(servo(arm, start + (goal - start) * step / steps, yaw, gripper, gain=2.0))


def _go(env: "SimulationEnv", goal: np.ndarray, yaw: float, gripper: float) -> None:
    for _ in range(60):
        arm = ArmState.of(env)
        if np.linalg.norm(goal - arm.position) < 0.015:
            return
        env.advance(servo(arm, goal, yaw, gripper))


def _pose_above_table(env: "SimulationEnv", generator: np.random.Generator) -> tuple[np.ndarray, float]:
    low, high = (-0.10, -0.15, 0.92), (0.08, 0.15, 1.02)
    yaw = heading(ArmState.of(env).rotation)
    return generator.uniform(low, high), yaw + generator.uniform(-0.5, 0.5)


def _lift(env: "SimulationEnv", generator: np.random.Generator) -> Iterator[None]:
    expert = LiftExpert()
    for _ in range(80):
        action = expert.act(env)
        if expert.phase == "lift":
            break
        env.advance(action)
    else:
        return
    arm = ArmState.of(env)
    rise = np.array([0.0, 0.0, generator.uniform(0.16, 0.22)])
    yield from _glide(env, arm.position + rise, heading(arm.rotation), CLOSE, FRAMES * _STEPS_PER_FRAME)


def _approach(env: "SimulationEnv", generator: np.random.Generator) -> Iterator[None]:
    _, yaw = _pose_above_table(env, generator)
    cube = Pose.of(env, "cube_main").position
    height = np.array([0.0, 0.0, generator.uniform(0.16, 0.22)])
    _go(env, cube + height, yaw, OPEN)
    yield from _glide(env, cube, yaw, OPEN, FRAMES * _STEPS_PER_FRAME)


def _sweep(env: "SimulationEnv", generator: np.random.Generator) -> Iterator[None]:
    start, yaw = _pose_above_table(env, generator)
    width = generator.uniform(0.22, 0.30)
    start[1] = generator.uniform(-0.05, 0.05) - width / 2
    _go(env, start, yaw, OPEN)
    yield from _glide(env, start + np.array([0.0, width, 0.0]), yaw, OPEN, FRAMES * _STEPS_PER_FRAME)


# Left and right are the viewer's: the camera faces the robot, whose y axis points to the picture's right.
SKILLS = (
    Skill("lift", _lift, backwards=False),
    Skill("lower", _lift, backwards=True),
    Skill("approach", _approach, backwards=False),
    Skill("retreat", _approach, backwards=True),
    Skill("move_right", _sweep, backwards=False),
    Skill("move_left", _sweep, backwards=True),
)


def partner_of(skill: Skill) -> Skill:
    """The skill whose clips are this one's played backwards."""
    return next(other for other in SKILLS if other.motion is skill.motion and other is not skill)
