"""Films become GIFs that a page can carry."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageSequence

from tests.capabilities import REPOSITORY


def test_a_film_becomes_a_small_gif_with_the_colours_of_small_things(tmp_path: Path) -> None:
    film, gif = tmp_path / "film.mp4", tmp_path / "film.gif"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=10, pix_fmt="yuv420p")
        stream.width, stream.height = 96, 64
        for step in range(30):
            picture = np.full((64, 96, 3), 240, np.uint8)
            picture[20:28, step : step + 8] = (160, 20, 30)  # a red cube that moves
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
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
