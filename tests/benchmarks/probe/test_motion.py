"""Motion energy: sees the player, not the camera; keeps time and place; plain words for clips too short."""

import numpy as np
import pytest

from fibo_robot.benchmarks.probe.motion import camera_shift, motion_energy
from fibo_robot.video.training.sampling import SamplingError


def panned(frames, player, pan=(2, 1), side=128):
    """A textured background that slides by `pan` pixels a frame, with a player on it at `player(t)`."""
    texture = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    background = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    clip = []
    for t in range(frames):
        x, y = 100 - pan[0] * t, 60 - pan[1] * t
        picture = background[y : y + side, x : x + side].copy()
        left, top = player(t)
        picture[top : top + 16, left : left + 16] = 255 * (t // 2 % 2)
        clip.append(picture)
    return np.stack(clip)


@pytest.mark.parametrize("pan", [(0, 0), (2, 1), (-3, 1), (1, -2)])
def test_player_is_seen_and_the_camera_is_not(pan):
    energy = np.exp(motion_energy(panned(24, lambda t: (104, 8), pan), steps=6))
    share = energy[:, 0, 3] / energy.sum((1, 2))  # the player is in the upper right of 16 cells
    assert energy.shape == (6, 4, 4) and (share > 0.4).all()


@pytest.mark.parametrize(
    ("shift", "within"), [((0.0, 0.0), 0.01), ((3.0, -7.0), 0.01), ((-1.5, 4.0), 0.35), ((0.25, 10.5), 0.35)]
)
def test_camera_shift_is_found(shift, within):
    # A picture that is shifted by its phases, whole pixels or not, comes around at the borders.
    noise = np.random.default_rng(0).normal(size=(128, 128))
    down, right = (move * np.fft.fftfreq(128) for move in shift)
    wave = np.exp(-2j * np.pi * np.add.outer(down, right))
    moved = np.fft.ifft2(np.fft.fft2(noise) * wave).real
    np.testing.assert_allclose(camera_shift(noise, moved), shift, atol=within)


def test_time_and_place_are_kept():
    clip = panned(32, lambda t: (8, 104) if t < 16 else (104, 8))
    energy = motion_energy(clip, steps=4)
    cells = [np.unravel_index(step.argmax(), step.shape) for step in energy]
    assert cells[0] == cells[1] == (3, 0) and cells[2] == cells[3] == (0, 3)


def test_contrast_cancels_out():
    clip = panned(12, lambda t: (40, 40))
    np.testing.assert_allclose(motion_energy(clip, 3), motion_energy(clip // 2, 3), atol=0.15)


def test_pictures_of_any_size_and_clips_without_motion():
    still = np.full((5, 31, 57, 3), 80, np.uint8)
    assert np.isfinite(motion_energy(still, steps=2, grid=3)).all()
    assert np.ptp(motion_energy(still, steps=2, grid=3)) == 0


def test_a_step_without_a_pair_of_its_own_repeats_one():
    clip = panned(4, lambda t: (40, 40))
    energy = motion_energy(clip, steps=5)
    assert energy.shape == (5, 4, 4) and len(np.unique(energy.reshape(5, -1), axis=0)) == 2


def test_too_few_frames_are_refused():
    with pytest.raises(SamplingError, match="needs 3 frames, not 2"):
        motion_energy(panned(2, lambda t: (40, 40)), steps=2)
