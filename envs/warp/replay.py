"""Recorded actions played by both simulators, side by side: do outcomes agree, and how far do paths part?

Nothing corrects the actions on the way, so the two part where contacts amplify what float32 rounds. Before
the first contact of hand and object they must not.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.demonstrations.replay import check_replayable, check_states
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.exporting.start_states import StartState
from fibo_robot.envs.warp.physics.capacity import Capacity
from fibo_robot.envs.warp.task import WarpTask

_BATCH = 32  # demonstrations at once on a CPU


@dataclass(frozen=True)
class ComparedDemo:
    """One demonstration in both simulators.

    Attributes:
        demo: its name.
        steps: its length.
        success, reference_success: solved at some step, by MuJoCo Warp and by robosuite.
        error: what broke down in the batched simulation; None: nothing.
        first_contact: control steps before hand and objects first touched; `steps` where they never did.
        path_before_contact: largest distance of the grippers of both simulators until then, metres.
        path: the same over the whole episode.
        objects: largest distance of an object over the whole episode, metres.
        judged_alike: steps at which both success rules agreed on the batched simulation's own state.
    """

    demo: str
    steps: int
    success: bool
    reference_success: bool
    error: str | None
    first_contact: int
    path_before_contact: float
    path: float
    objects: float
    judged_alike: int


@dataclass(frozen=True)
class Comparison:
    """All demonstrations of a file.

    Attributes:
        path: the file.
        env_name: robosuite's environment.
        device: where the batched simulation ran.
        contacts, constraints: most contacts or candidates per world, and constraints of one world, at a time.
        demos: one entry per demonstration, in order.
    """

    path: Path
    env_name: str
    device: str
    contacts: int
    constraints: int
    demos: tuple[ComparedDemo, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary with every row."""
        rows = [asdict(demo) for demo in self.demos]
        return {
            "path": self.path.name,
            "env_name": self.env_name,
            "device": self.device,
            "contacts": self.contacts,
            "constraints": self.constraints,
            "demonstrations": len(rows),
            "equal_outcomes": sum(demo.success == demo.reference_success for demo in self.demos),
            "successes": sum(demo.success for demo in self.demos),
            "reference_successes": sum(demo.reference_success for demo in self.demos),
            "errors": sum(demo.error is not None for demo in self.demos),
            "max_path_before_contact": max(demo.path_before_contact for demo in self.demos),
            "states_judged": sum(demo.steps for demo in self.demos),
            "states_judged_alike": sum(demo.judged_alike for demo in self.demos),
            "demos": rows,
        }

    def to_text(self) -> str:
        """A table of all demonstrations, lengths in millimetres, and what it comes to."""
        head = "demonstration  steps  robosuite  batched  contact after  "
        head += "path before  path  objects  judged alike"
        lines = [head]
        for demo in self.demos:
            outcomes = ["yes" if solved else "no" for solved in (demo.reference_success, demo.success)]
            lengths = [1000 * value for value in (demo.path_before_contact, demo.path, demo.objects)]
            lines.append(
                f"{demo.demo:13}  {demo.steps:5}  {outcomes[0]:9}  {outcomes[1]:7}  {demo.first_contact:13}  "
                f"{lengths[0]:11.4f}  {lengths[1]:4.1f}  {lengths[2]:7.1f}  {demo.judged_alike:12}"
                + (f"  {demo.error}" if demo.error else "")
            )
        whole = self.to_dict()
        lines.append(
            f"{self.path}: {whole['equal_outcomes']} of {len(self.demos)} outcomes are robosuite's "
            f"({whole['successes']} solved in batched worlds on {self.device}, "
            f"{whole['reference_successes']} in robosuite); before the first contact the gripper's path is "
            f"within {1000 * whole['max_path_before_contact']:.4f} mm; both success rules agree on "
            f"{whole['states_judged_alike']} of {whole['states_judged']} states."
        )
        return "\n".join(lines)


@dataclass
class _Track:
    """What one simulator did in one episode: after every step."""

    hands: list[np.ndarray]
    objects: list[np.ndarray]
    success: list[bool]
    touched: list[bool]


def compare_replays(
    path: Path | str,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Play demonstrations' actions from their first states in robosuite and, together, in MuJoCo Warp.

    Args:
        path: a file whose demonstrations have states.
        device: for MuJoCo Warp.
        progress: called with the control steps done and wanted.

    Raises:
        DatasetError: if the file cannot be used, or its states do not fit the task.
        WarpError: the batched simulation cannot start.
    """
    with DemonstrationFile(path) as file:
        check_replayable(file)
        demos = file.demos
        total = 2 * sum(file.length(demo) for demo in demos)
        done = contacts = constraints = 0

        def played(steps: int) -> None:
            nonlocal done
            done += steps
            progress(done, total)

        env = SimulationEnv(file.task(), [], render_mode=None)
        compared: list[ComparedDemo] = []
        try:
            for first in range(0, len(demos), _BATCH):
                batch = demos[first : first + _BATCH]
                starts, references = [], []
                for demo in batch:
                    start, reference = _reference(env, file, demo)
                    starts.append(start)
                    references.append(reference)
                    played(file.length(demo))
                run = _batched(file, starts, [file.actions(demo) for demo in batch], device, played)
                contacts = max(contacts, run.used.contacts)
                constraints = max(constraints, run.used.constraints)
                for index, demo in enumerate(batch):
                    env.take_geometry(file.attributes(demo).get("model_file"))
                    alike = _judged_alike(env, run.states[index], run.tracks[index].success)
                    track, error = run.tracks[index], run.errors[index]
                    compared.append(_compare(demo, track, references[index], error, alike))
        finally:
            env.close()
        task = file.task()
        return Comparison(Path(path), task.env_name, device, contacts, constraints, tuple(compared))


def _reference(env: SimulationEnv, file: DemonstrationFile, demo: str) -> tuple[StartState, _Track]:
    """The episode in robosuite, and where it begins."""
    states = file.states(demo)
    check_states(env, states, f"{demo} of {file.path}")
    env.take_geometry(file.attributes(demo).get("model_file"))
    env.reset_to(states[0])
    start = StartState.of(env)
    track = _Track([], [], [], [])
    for action in file.actions(demo):
        track.success.append(env.advance(action).success)
        track.hands.append(_hands(env))
        track.objects.append(np.stack(list(env.object_positions().values())))
        track.touched.append(_hand_touches(env))
    return start, track


def _hands(env: SimulationEnv) -> np.ndarray:
    data = env._robosuite.sim.data
    return np.stack([data.site_xpos[robot.eef_site_id["right"]] for robot in env._robosuite.robots])


def _hand_touches(env: SimulationEnv) -> bool:
    """Whether a gripper touches anything but itself."""
    model, data = env._model, env._robosuite.sim.data._data
    for geoms in data.contact.geom:
        ours = ["gripper" in model.body(int(model.geom(int(geom)).bodyid[0])).name for geom in geoms]
        if any(ours) and not all(ours):
            return True
    return False


@dataclass
class _BatchedRun:
    """What all worlds did: track, states after every step and error for each, and what it took."""

    tracks: list[_Track]
    states: list[list[np.ndarray]]
    errors: list[str | None]
    used: Capacity


def _batched(
    file: DemonstrationFile,
    starts: Sequence[StartState],
    actions: Sequence[np.ndarray],
    device: str,
    played: Callable[[int], None],
) -> _BatchedRun:
    worlds = WarpTask(file.task(), len(starts), device)
    worlds.start_from(starts)
    run = _BatchedRun(
        [_Track([], [], [], []) for _ in starts], [[] for _ in starts], [None] * len(starts), Capacity(0, 0)
    )
    for step in range(max(map(len, actions))):
        rows = [taken[min(step, len(taken) - 1)] for taken in actions]
        info = worlds.advance(torch.from_numpy(np.stack(rows)))
        now = worlds.usage()
        run.used = Capacity(max(run.used.contacts, now.contacts), max(run.used.constraints, now.constraints))
        hands = worlds.hand_positions().cpu().numpy()
        objects = torch.stack(list(worlds.object_positions().values()), 1).cpu().numpy()
        flat, success = worlds.states().cpu().numpy(), info["success"].tolist()
        playing = [world for world, taken in enumerate(actions) if step < len(taken)]
        for world in playing:
            run.tracks[world].hands.append(hands[world])
            run.tracks[world].objects.append(objects[world])
            run.tracks[world].success.append(success[world])
            run.states[world].append(flat[world])
            if world in worlds.faults:
                run.errors[world] = worlds.faults[world].message
        worlds.rest([world for world in playing if step + 1 == len(actions[world])])
        played(len(playing))
    worlds.close()
    return run


def _judged_alike(env: SimulationEnv, states: Sequence[np.ndarray], success: Sequence[bool]) -> int:
    """How often robosuite's own rule agrees, asked about the batched simulation's states."""
    alike = 0
    for state, said in zip(states, success, strict=True):
        env.show_state(state.astype(np.float64))
        alike += env.success == said
    return alike


def _compare(demo: str, track: _Track, reference: _Track, error: str | None, alike: int) -> ComparedDemo:
    hands = np.linalg.norm(np.array(track.hands) - np.array(reference.hands), axis=-1).max(1)
    objects = np.linalg.norm(np.array(track.objects) - np.array(reference.objects), axis=-1).max(1)
    contact = next((step for step, touched in enumerate(reference.touched) if touched), len(hands))
    return ComparedDemo(
        demo=demo,
        steps=len(hands),
        success=any(track.success),
        reference_success=any(reference.success),
        error=error,
        first_contact=contact,
        path_before_contact=float(hands[:contact].max(initial=0.0)),
        path=float(hands.max()),
        objects=float(objects.max()),
        judged_alike=alike,
    )
