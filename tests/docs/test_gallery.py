"""Films become GIFs that a page can carry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from tests.capabilities import REPOSITORY
from tests.video.clips import write_video


def test_a_film_becomes_a_small_gif_with_the_colours_of_small_things(tmp_path: Path) -> None:
    film, gif = tmp_path / "film.mp4", tmp_path / "film.gif"
    pictures = np.full((30, 64, 96, 3), 240, np.uint8)
    for step, picture in enumerate(pictures):
        picture[20:28, step : step + 8] = (160, 20, 30)  # a red cube that moves
    write_video(film, pictures, rate=10)
    command = [sys.executable, str(REPOSITORY / "scripts" / "film_to_gif.py"), str(film), str(gif)]
    subprocess.run([*command, "--seconds", "2", "--width", "48"], check=True, capture_output=True)
    with Image.open(gif) as made:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(made)]
        assert made.size == (48, 32) and len(frames) == 20
        assert made.info["duration"] == 1500
        red, green, blue = frames[-1][12, 11]
        assert red > 120 and green < 60 and blue < 70


def test_pictures_of_the_repository_are_small() -> None:
    gifs = list((REPOSITORY / "docs").rglob("*.gif"))
    assert gifs and all(gif.stat().st_size < 1e6 for gif in gifs)
