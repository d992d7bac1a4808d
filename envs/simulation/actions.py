"""What an environment is told to do, looked at before the simulator takes it."""

from typing import TYPE_CHECKING

import numpy as np

from fibo_robot.interfaces import ShapeError

if TYPE_CHECKING:
    from fibo_robot.interfaces import ActionSpec


def clipped_action(action: np.ndarray, spec: "ActionSpec") -> np.ndarray:
    """One action `(A,)` as float64, within its bounds.

    Raises:
        ShapeError: it has another shape, or an entry that is not a number. A simulator would go on with both:
            one number would be spread over all entries, and a NaN throws the scene back to where it began.
    """
    taken = np.asarray(action, dtype=np.float64)
    if taken.shape != (spec.dim,):
        raise ShapeError(f"An action of this task has shape ({spec.dim},), not {taken.shape}.")
    if np.isnan(taken).any():
        raise ShapeError(f"An action must be numbers; entry {int(np.isnan(taken).argmax())} is NaN.")
    return np.clip(taken, spec.low, spec.high)
