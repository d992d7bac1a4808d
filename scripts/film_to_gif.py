"""A film as a GIF for a page: the beginning of an mp4, small, in colours that suit all of its frames.

python scripts/film_to_gif.py runs/quickstart/rollouts/videos/grid.mp4 docs/pictures/lift.gif
"""

import argparse
from pathlib import Path

import av
from PIL import Image

from fibo_robot.files import replace_atomically

COLOURS = 128
HOLD = 1.5  # seconds that the last picture stays, before the GIF begins again


def film_to_gif(film: Path, target: Path, seconds: float, width: int) -> int:
    """Write the GIF; returns its size in bytes."""
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 10)
        pictures = [
            frame.to_image() for frame, _ in zip(container.decode(stream), range(round(seconds * rate)))
        ]
    height = round(pictures[0].height * width / pictures[0].width)
    small = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture in pictures]
    # One palette, of frames from beginning to end: a palette per frame flickers and takes more room.
    sample = Image.new("RGB", (width, height * 3))
    for place, index in enumerate((0, len(small) // 2, len(small) - 1)):
        sample.paste(small[index], (0, place * height))
    # The octree keeps the colours of small things, such as the cube's red; k-means then fits them.
    palette = sample.quantize(COLOURS, Image.Quantize.FASTOCTREE, kmeans=3)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in small]
    durations = [round(1000 / rate)] * (len(frames) - 1) + [round(1000 * HOLD)]
    with replace_atomically(target) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            optimize=True,
        )
    return target.stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("film", type=Path)
    parser.add_argument("gif", type=Path)
    parser.add_argument("--seconds", type=float, default=4.5, help="how much of the film [4.5]")
    parser.add_argument("--width", type=int, default=432, help="pixels [432]")
    given = parser.parse_args()
    size = film_to_gif(given.film, given.gif, given.seconds, given.width)
    print(f"{given.gif}: {size / 1e6:.2f} MB")
