"""What one worker does, wherever it runs: step one environment through one seed's episode at a time.

The engine sends :class:`Begin`, then :class:`Act` until the reply says that the episode is done. A reply
carries the stacked observations on which the policy decides next. Pictures are rendered only for those:
with `n_action_steps` actions per decision and `n_obs_steps` observations, a chunk advances the physics
`n_action_steps` times and observes after the last `n_obs_steps` of them.

Nothing resets early: an episode runs to its task's horizon, or until success has held for
`success_hold` consecutive steps, which leaves `success_at_end` its meaning (an object that slips away
again does not hold) at a fraction of the horizon's cost.
"""

import hashlib
import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rollouts.engine import scene_digest
from fibo_robot.envs.rollouts.episodes import Episode
from fibo_robot.envs.rollouts.videos import VideoSpec, encode_episode
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import Env, ShapeMeta, Task

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class Setup:
    """Everything a worker needs to build and run its environment; plain data, so that it travels anywhere.

    Attributes:
        task: what is simulated.
        layout: shape `(n_obs_steps, ...)` and type name of every stacked observation that the policy sees.
        n_obs_steps: length of a stack.
        success_hold: steps for which success must hold to end an episode; None: none do.
    """

    task: Task
    layout: Mapping[str, tuple[tuple[int, ...], str]]
    n_obs_steps: int
    success_hold: int | None

    @classmethod
    def of(cls, task: Task, shape_meta: ShapeMeta, success_hold: int | None) -> "Setup":
        """What a policy with this `shape_meta` needs of a worker."""
        steps = shape_meta.n_obs_steps
        types = {"rgb": "uint8", "low_dim": "float32"}
        layout = {key: ((steps, *spec.shape), types[spec.kind]) for key, spec in shape_meta.obs.items()}
        return cls(task, layout, steps, success_hold)


@dataclass(frozen=True)
class Begin:
    """Start the episode of a seed, filmed if `video` says how."""

    seed: int
    video: VideoSpec | None = None


@dataclass(frozen=True)
class Act:
    """Execute actions `(n_action_steps, A)`."""

    actions: np.ndarray


@dataclass(frozen=True)
class Stop:
    """End the running episode as it stands, and report it."""


@dataclass
class Started:
    """The environment has been built.

    Attributes:
        renderer: what draws the observed pictures, as it calls itself; None where none are observed.
    """

    renderer: str | None = None


@dataclass
class Progress:
    """A command was carried out.

    Attributes:
        observation: what the policy decides on next; None when the episode is done.
        episode: the finished episode.
        video: the finished episode's mp4.
        steps: control steps executed by this command.
        physics: seconds spent advancing the simulation.
        rendering: seconds spent observing and filming.
        received: when the command arrived, on this machine's monotonic clock.
        sent: when this reply left.
    """

    observation: Observation | None = None
    episode: Episode | None = None
    video: bytes | None = None
    steps: int = 0
    physics: float = 0.0
    rendering: float = 0.0
    received: float = 0.0
    sent: float = 0.0


@dataclass
class Failed:
    """The worker cannot go on; a new one takes its place.

    Attributes:
        message: the error's last line.
        details: its traceback.
        actionable: the error is a FiboError: it tells the user what to do, and a retry would not help.
    """

    message: str
    details: str = ""
    actionable: bool = False


Command = Begin | Act | Stop
Reply = Started | Progress | Failed


class EpisodeRunner:
    """One environment and the episode that runs in it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.env: Env = setup.task.make_env(list(setup.layout))
        self._history: deque[Observation] = deque(maxlen=setup.n_obs_steps)
        self._tally = _Tally(seed=-1)

    def started(self) -> Started:
        """What to tell the engine of the environment that was built."""
        return Started(self.env.describe_renderer())

    def handle(self, command: Command) -> Progress:
        """Carry out one command; whatever the environment raises goes through."""
        progress = Progress(received=time.monotonic())
        if isinstance(command, Begin):
            self._begin(command, progress)
        elif isinstance(command, Act):
            self._act(command.actions, progress)
        else:
            self._finish(progress)
        progress.sent = time.monotonic()
        return progress

    def close(self) -> None:
        """Release the simulator."""
        self.env.close()

    def _begin(self, command: Begin, progress: Progress) -> None:
        start = time.perf_counter()
        observation, _ = self.env.reset(seed=command.seed)
        self._tally = _Tally(command.seed, command.video)
        self._tally.scene = scene_digest(self.env.scene())
        positions = self.env.object_positions()
        self._tally.object_positions = {name: tuple(map(float, at)) for name, at in positions.items()}
        # Before the first step the past is taken to look like the present.
        self._history.extend([observation] * self.setup.n_obs_steps)
        self._tally.record_frame(self.env)
        progress.rendering = time.perf_counter() - start
        progress.observation = self._stacked()

    def _act(self, actions: np.ndarray, progress: Progress) -> None:
        tally = self._tally
        for index, action in enumerate(actions):
            start = time.perf_counter()
            result = self.env.advance(action)
            progress.physics += time.perf_counter() - start
            progress.steps += 1
            tally.add(action, float(result.reward), bool(result.success))
            done = tally.length >= self.setup.task.horizon or tally.held == self.setup.success_hold
            start = time.perf_counter()
            if tally.video is not None and (done or tally.length % tally.video.every == 0):
                tally.record_frame(self.env)
            if not done and index >= len(actions) - self.setup.n_obs_steps:
                self._history.append(self.env.observe())
            progress.rendering += time.perf_counter() - start
            if done:
                self._finish(progress)
                return
        progress.observation = self._stacked()

    def _finish(self, progress: Progress) -> None:
        start = time.perf_counter()
        progress.observation = None
        progress.episode, progress.video = self._tally.episode()
        progress.rendering += time.perf_counter() - start

    def _stacked(self) -> Observation:
        stacked = {}
        for key, (shape, dtype) in self.setup.layout.items():
            values = np.stack([np.asarray(observation[key], dtype) for observation in self._history])
            if values.shape != shape:
                raise RolloutError(
                    f"The environment of the task {self.setup.task.name} gave {key} of shape "
                    f"{values.shape[1:]}, where the task says {shape[1:]}."
                )
            stacked[key] = values
        return stacked


@dataclass
class _Tally:
    """The running episode's account."""

    seed: int
    video: VideoSpec | None = None
    length: int = 0
    held: int = 0
    first_success: int | None = None
    rewards: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    scene: str | None = None
    object_positions: dict[str, tuple[float, ...]] = field(default_factory=dict)
    trace: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))

    def add(self, action: np.ndarray, reward: float, success: bool) -> None:
        self.length += 1
        self.held = self.held + 1 if success else 0
        if success and self.first_success is None:
            self.first_success = self.length
        self.rewards.append(reward)
        self.trace.update(np.asarray(action, np.float64).tobytes())
        self.trace.update(np.float64(reward).tobytes())

    def record_frame(self, env: Env) -> None:
        if self.video is not None:
            self.frames.append(env.render_image(self.video.camera, self.video.size, self.video.size))

    def episode(self) -> tuple[Episode, bytes | None]:
        video, video_error = None, None
        if self.video is not None:
            video, video_error = encode_episode(self.seed, self.frames, self.video.fps)
        episode = Episode(
            seed=self.seed,
            success_once=self.first_success is not None,
            success_at_end=self.held > 0,
            sum_reward=float(np.sum(self.rewards)),
            max_reward=max(self.rewards, default=0.0),
            length=self.length,
            first_success=self.first_success,
            scene=self.scene,
            trace=self.trace.hexdigest(),
            object_positions=self.object_positions,
            video_error=video_error,
        )
        return episode, video


def failure(error: Exception) -> Failed:
    """Describe an exception to the engine."""
    message = str(error) if isinstance(error, FiboError) else f"{type(error).__name__}: {error}"
    return Failed(message, traceback.format_exc(), isinstance(error, FiboError))
