"""Toy clips, made once for all tests."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.video import clips


def moving_square(generator: np.random.Generator, backwards: bool) -> np.ndarray:
    """`(12, 32, 32, 3)` uint8: a bright square crosses the picture; its class is the direction."""
    row, shift = generator.integers(4, 20), generator.integers(0, 4)
    frames = np.full((12, 32, 32, 3), 30, np.uint8)
    for number in range(12):
        column = shift + 2 * number
        frames[number, row : row + 8, column : column + 8] = 220
    return frames[::-1] if backwards else frames


@pytest.fixture(scope="session")
def motion_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips.csv: 12 clips that move right, 12 that move left; a third of them for testing."""
    folder = tmp_path_factory.mktemp("motion")
    generator = np.random.default_rng(0)
    with (folder / "clips.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for number in range(24):
            label, split = ("left", "right")[number % 2], "test" if number < 8 else "train"
            name = f"{label}_{number}.mp4"
            clips.write_video(folder / name, moving_square(generator, label == "left"))
            writer.writerow([name, label, split])
    return folder
