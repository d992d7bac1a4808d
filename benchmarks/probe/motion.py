"""Motion that is not the camera's: where in the picture, and when in the clip, something moves.

Broadcast cameras follow the player, so plain frame differences mostly show the background sliding by. Here
the earlier frame is first moved by the shift that phase correlation finds between the two.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

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
    energies = np.stack([_cell_means(_difference(*pair), grid) for pair in pairs])
    edges = np.linspace(0, len(energies), steps + 1).round().astype(int)
    starts = np.minimum(edges[:-1], len(energies) - 1)
    spans = zip(starts, np.maximum(edges[1:], starts + 1), strict=True)
    energy = np.stack([energies[start:end].mean(0) for start, end in spans])
    return np.log(energy / max(energy.mean(), 1e-6) + _FLOOR)


def camera_shift(earlier: np.ndarray, later: np.ndarray) -> tuple[float, float]:
    """By how many pixels (down, right) the later picture has moved, by phase correlation.

    The normalised cross-power spectrum of two shifted pictures is a wave whose transform peaks at the shift
    (Kuglin and Hines, "The phase correlation image alignment method", 1975); the centroid of the 5 x 5 values
    around the peak tells parts of a pixel.

    Args:
        earlier, later: `(H, W)`, of equal size.
    """
    cross = np.fft.rfft2(later) * np.conj(np.fft.rfft2(earlier))
    peaks = np.fft.fftshift(np.fft.irfft2(cross / (np.abs(cross) + np.finfo(np.float32).eps), earlier.shape))
    top = np.unravel_index(peaks.argmax(), peaks.shape)
    rows, columns = (
        np.arange(max(place - 2, 0), min(place + 3, side))
        for place, side in zip(top, peaks.shape, strict=True)
    )
    weights = peaks[np.ix_(rows, columns)]
    total = weights.sum() + np.finfo(np.float32).eps
    down, right = (weights.sum(1) @ rows / total, weights.sum(0) @ columns / total)
    return down - peaks.shape[0] // 2, right - peaks.shape[1] // 2


def _grey(frame: np.ndarray) -> np.ndarray:
    """`(_SIDE, _SIDE)`, float32 in [0, 1]: brightness as ITU-R BT.601 weighs the colours."""
    small = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return (np.asarray(small) @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)


def _difference(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    shift = camera_shift(earlier, later)
    if max(abs(part) for part in shift) > _LARGEST_SHIFT:
        shift = (0.0, 0.0)
    return np.abs(ndimage.shift(earlier, shift, order=1, mode="nearest") - later)


def _cell_means(picture: np.ndarray, grid: int) -> np.ndarray:
    """The means of `grid` x `grid` equal cells of a float picture."""
    return np.asarray(Image.fromarray(picture).resize((grid, grid), Image.Resampling.BOX))
