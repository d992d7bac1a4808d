"""Motion that is not the camera's: where in the picture, and when in the clip, something moves.

Broadcast cameras follow the player, so plain frame differences mostly show the background sliding by. Here
the earlier frame is first moved by the shift that phase correlation finds between the two.
"""

import cv2
import numpy as np

from fibo_robot.video.training.sampling import SamplingError

_SIDE = 128  # pixels of the square, grey pictures that are compared
_LARGEST_SHIFT = 20  # pixels of those; phase correlation that says more has met a cut or found nothing
_FLOOR = 0.01  # of the clip's mean energy; keeps the logarithm finite where nothing moves


def motion_energy(frames: np.ndarray, steps: int, grid: int = 4, gap: int = 2) -> np.ndarray:
    """Logarithm of how much moves in each cell of the picture during each step of the clip.

    The energy of a cell is the mean absolute difference of grey values, camera shift undone, between frames
    `gap` apart; it is averaged over a step and divided by the clip's mean, so that contrast cancels out.

    Args:
        frames: all frames of a clip `(N, H, W, 3)`, RGB, uint8.
        steps: T, equal spans of time; with fewer pairs of frames than that, some count for several spans.
        grid: G, cells along each side of the picture.
        gap: distance between compared frames.

    Returns:
        `(T, G, G)`, float32: row 0 is the top of the picture.

    Raises:
        SamplingError: no two frames lie `gap` apart.
    """
    if len(frames) <= gap:
        raise SamplingError(f"motion between frames {gap} apart needs {gap + 1} frames, not {len(frames)}.")
    pictures = [_grey(frame) for frame in frames]
    pairs = zip(pictures[:-gap], pictures[gap:], strict=True)
    size = (grid, grid)
    energies = np.stack(
        [cv2.resize(_difference(*pair), size, interpolation=cv2.INTER_AREA) for pair in pairs]
    )
    edges = np.linspace(0, len(energies), steps + 1).round().astype(int)
    starts = np.minimum(edges[:-1], len(energies) - 1)
    spans = zip(starts, np.maximum(edges[1:], starts + 1), strict=True)
    energy = np.stack([energies[start:end].mean(0) for start, end in spans])
    return np.log(energy / max(energy.mean(), 1e-6) + _FLOOR)


def _grey(frame: np.ndarray) -> np.ndarray:
    small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def _difference(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    (right, down), _ = cv2.phaseCorrelate(earlier, later)
    if max(abs(right), abs(down)) > _LARGEST_SHIFT:
        right = down = 0.0
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(earlier, shift, (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE)
    return np.abs(moved - later)
