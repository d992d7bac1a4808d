"""The actions of a demonstration file: of the length, kind and bounds that its task says."""

from pathlib import Path

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.interfaces import ActionSpec

# A delta's three entries of rotation are at most 1 each where the simulator executes them.
_LARGEST_TURN = np.sqrt(3)
# Metres. A controller that is asked for a pose this far off jumps; demonstrations ask for a few centimetres.
_FAR_OFF = 0.5


def check_actions(
    actions: np.ndarray, spec: ActionSpec, path: Path | str, hand: np.ndarray | None = None
) -> np.ndarray:
    """Actions `(T, A)` clipped to the bounds of `spec`, as the simulator clips them, float32.

    Files are about that say one thing of their actions and hold another: absolute poses beside the controller
    that recorded their deltas. Where that can be told for certain it is refused, because such a policy trains
    well and then does something else.

    Args:
        actions: as the file holds them, of all demonstrations.
        spec: what the file's controller says they are.
        path: what to call the file in messages.
        hand: the first arm's position at each action `(T, 3)`, where the file has it.

    Raises:
        DatasetError: for another length than the task's, entries that are not finite, or actions of the other
            kind.
    """
    if actions.shape[1] != spec.dim:
        raise DatasetError(
            f"{path} has actions of length {actions.shape[1]}, the task {spec.dim}. "
            "Choose the task that the demonstrations were recorded for."
        )
    if not np.isfinite(actions).all():
        raise DatasetError(
            f"{path} has actions that are not finite. Record or convert the demonstrations again."
        )
    if spec.arms and spec.rotation == "axis_angle":
        found = _other_kind(actions, spec, hand)
        if found:
            other = "absolute poses" if spec.mode == "delta" else "deltas"
            flag = "true" if spec.mode == "absolute" else "false"
            raise DatasetError(
                f"{path} says that its actions are {spec.mode}, but they are {other}: {found}. Set "
                f"control_delta: {flag} (or input_type) in its env_args' controller_configs, or read another "
                "array with data.action_key."
            )
    return np.clip(actions, spec.low, spec.high).astype(np.float32)


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
