"""The actions of a demonstration file: of the length, kind and bounds that its task says."""

from collections.abc import Mapping, Sequence

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.interfaces import ActionSpec

# A delta's three entries of rotation are at most 1 each where the simulator executes them.
_LARGEST_TURN = np.sqrt(3)
# Metres. A controller that is asked for a pose this far off jumps; demonstrations ask for a few centimetres.
_FAR_OFF = 0.5


def check_actions(
    demos: Sequence[str],
    actions: Sequence[np.ndarray],
    spec: ActionSpec,
    name: str,
    hands: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Each demonstration's actions `(T, A)` clipped to the bounds of `spec`, as the simulator does, float32.

    Files are about that say one thing of their actions and hold another: absolute poses beside the controller
    that recorded their deltas, or demonstrations of several controllers in one file. Where that can be told
    for certain it is refused, because such a policy trains well and then does something else.

    Args:
        demos: names of the demonstrations.
        actions: of each, as the file holds them.
        spec: what the file's controller says they are.
        name: what to call the file in messages.
        hands: of each, the first arm's position at each action `(T, 3)`, where the file has it.

    Raises:
        DatasetError: for another length than the task's, no steps, entries that are not finite, or actions of
            the other kind.
    """
    strange: dict[str, str] = {}
    for index, (demo, steps) in enumerate(zip(demos, actions, strict=True)):
        if steps.shape[1:] != (spec.dim,):
            raise DatasetError(
                f"{demo} of {name} has actions of shape {steps.shape[1:]}, the task takes ({spec.dim},). "
                "Choose the task that the demonstrations were recorded for."
            )
        if len(steps) == 0 or not np.isfinite(steps).all():
            wrong = "no steps" if len(steps) == 0 else "actions that are not finite"
            raise DatasetError(f"{demo} of {name} has {wrong}; remove it from the file or its mask.")
        if spec.arms and spec.rotation == "axis_angle":
            found = _other_kind(steps, spec, None if hands is None else hands[index])
            if found:
                strange[demo] = found
    if strange:
        raise DatasetError(_in_words(strange, len(demos), spec, name))
    return [np.clip(steps, spec.low, spec.high).astype(np.float32) for steps in actions]


def _in_words(strange: Mapping[str, str], total: int, spec: ActionSpec, name: str) -> str:
    """Which demonstrations are of the other kind, why, and what to do: all of them are, or only some."""
    demo, found = next(iter(strange.items()))
    other = "absolute poses" if spec.mode == "delta" else "deltas"
    said = f"{name} says that its actions are {spec.mode}, but those of {demo} are {other}: {found}. "
    if len(strange) < total:
        return said + (
            f"So are those of {len(strange)} of {total} demonstrations in all: it mixes recordings of "
            "different controllers. Keep them apart, or name one kind in a mask and set data.filter_key."
        )
    flag = "true" if spec.mode == "absolute" else "false"
    return said + (
        f"Set control_delta: {flag} (or input_type) in its env_args' controller_configs, or read another "
        "array with data.action_key."
    )


def _other_kind(actions: np.ndarray, spec: ActionSpec, hand: np.ndarray | None) -> str:
    """Why the actions cannot be of the kind that `spec` says; empty where they may be."""
    turns = np.linalg.norm(actions[:, 3:6], axis=1)
    if spec.mode == "delta":
        if turns.min() > _LARGEST_TURN:
            return f"every step turns by more than {_LARGEST_TURN:.2f}, further than a delta can"
        return ""
    resting = ~actions[:, :6].any(axis=1)
    if resting.any():
        return f"{resting.sum()} of {len(actions)} steps are all zeros, which is no pose but standing still"
    if hand is not None:
        distance = float(np.median(np.linalg.norm(actions[:, :3] - hand, axis=1)))
        if distance > _FAR_OFF:
            return f"half of them lie more than {distance:.1f} m from where the hand is"
    return ""
