"""A copy of a video with its labels and the encoder's attention written onto it.

The map shows how much each patch is attended to by all others in one layer, averaged over heads: the column
sums of its attention matrix (:mod:`fibo_robot.attention.maps`).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.maps import OverlayError, blend, heat_map, watch_received
from fibo_robot.encoders import VideoEncoder
from fibo_robot.files import replace_atomically
from fibo_robot.progress import track
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.inference.predict import Score
from fibo_robot.video.inference.windows import WindowScores, frame_times, turning_points, window_clips
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.training.sampling import Box

MIN_HEIGHT = 360  # smaller videos are enlarged, so that the words can be read
# x264's default preset takes half of the time of an overlay; this one writes a slightly larger file.
_X264 = {"crf": "20", "preset": "veryfast"}


@torch.no_grad()
def attention_map(encoder: VideoEncoder, clip: Tensor, layer: int = -1) -> np.ndarray:
    """How much each patch of a clip is attended to, `(T', H', W')`, scaled to [0, 1] over the clip.

    Args:
        encoder: in evaluation mode. In `divided` mode it is the attention over space that is shown.
        clip: `(T, 3, H, W)`, as the encoder takes it.
        layer: counted from 0; negative counts from the last.

    Raises:
        OverlayError: there is no such layer.
    """
    try:
        block = encoder.vit.blocks[layer]
    except IndexError:
        raise OverlayError(f"There is no layer {layer}: the encoder has {len(encoder.vit.blocks)}.") from None
    (core,) = (module for module in block.modules() if isinstance(module, AttentionCore))
    with watch_received(core, encoder.num_prefix_tokens) as seen:
        encoder(clip[None].to(encoder.normalise.mean.device))
    return heat_map(torch.cat(seen).reshape(encoder.grid))


def whole_video(path: Path | str, scores: Sequence[Score]) -> list[WindowScores]:
    """What was found in a video as a whole, as the one window that :func:`write_overlay` takes.

    Raises:
        VideoDecodeError: the video cannot be read.
    """
    return [WindowScores(0.0, open_clip(Path(path), verify=False).duration, tuple(scores))]


def write_overlay(
    classifier: VideoClassifier,
    path: Path | str,
    target: Path | str,
    windows: Sequence[WindowScores],
    *,
    top_k: int = 3,
    layer: int = -1,
) -> None:
    """Write `target`, an mp4 of the video with the most probable classes and the attention map on it.

    The words are those of `windows`, whichever views and crops they were found with; the map is that of the
    middle crop. The file is gone through twice side by side, once for the maps and once for the pictures, so
    that its length does not matter to memory.

    Args:
        classifier: from `load_classifier`.
        path: a video file.
        target: the mp4 to write.
        windows: what `classify_windows` found in it, or :func:`whole_video`.
        top_k: how many classes to write.
        layer: whose attention to show; see :func:`attention_map`.

    Raises:
        VideoDecodeError: the video cannot be read.
        OverlayError: the copy cannot be written.
    """
    reader, reader_of_clips = open_clip(Path(path)), open_clip(Path(path), verify=False)
    spans = [(window.start, window.end) for window in windows]
    clips = window_clips(classifier, reader_of_clips, spans)
    # Halfway between two middles, the next window speaks for a frame.
    speakers = np.searchsorted(turning_points(windows), reader.timestamps)

    def pictures() -> Iterator[np.ndarray]:
        shown, heat, times = -1, np.empty(0), np.empty(0)
        numbers = track(range(len(reader)), "drawing")
        for number, picture in zip(numbers, reader.stream(range(len(reader)))):
            while shown < speakers[number]:
                shown += 1
                (clip,) = next(clips)
                if shown == speakers[number]:
                    start, end = spans[shown]
                    heat = attention_map(classifier.encoder, clip, layer)
                    times = frame_times(classifier.sampling, start, end - start, reader.fps)
            nearest = int(np.abs(times - reader.timestamps[number]).argmin())
            slice_of_clip = heat[nearest * len(heat) // len(times)]
            box = classifier.cropping.test(*picture.shape[:2])[0]
            yield draw(picture, box, slice_of_clip, windows[shown].scores[:top_k])

    write_mp4(pictures(), Path(target), reader.fps)


def draw(picture: np.ndarray, box: Box, heat: np.ndarray, scores: Sequence[Score]) -> np.ndarray:
    """Lay a map over the part of a picture that the classifier saw, outline it, and write its labels above.

    Args:
        picture: uint8 `(H, W, 3)`.
        box: the part that was seen.
        heat: `(H', W')` in [0, 1].
        scores: the labels, most probable first; those that round to 0 % are not written.

    Returns:
        uint8, the picture enlarged to at least `MIN_HEIGHT` rows, its sides even.
    """
    enlarged = max(1, -(-MIN_HEIGHT // picture.shape[0]))
    height, width = (side * enlarged // 2 * 2 for side in picture.shape[:2])
    canvas = np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    top, left = box.top * enlarged, box.left * enlarged
    side = (min(box.height * enlarged, height - top), min(box.width * enlarged, width - left))
    seen = canvas[top : top + side[0], left : left + side[1]]
    seen[:] = blend(seen, heat)
    image = Image.fromarray(canvas)
    pen, size = ImageDraw.Draw(image), max(14, height // 20)
    if (side[0], side[1]) != (height, width):
        corners = (left, top, left + side[1] - 1, top + side[0] - 1)
        pen.rectangle(corners, outline="white", width=max(1, size // 10))
    font = ImageFont.load_default(size)
    worth_saying = [(f"{score.probability:.0%}", score.label) for score in scores]
    worth_saying = [(share, label) for share, label in worth_saying if share != "0%"]
    column = size // 2 + max((pen.textlength(share, font) for share, _ in worth_saying), default=0)
    style = {"font": font, "fill": "white", "stroke_width": max(1, size // 10), "stroke_fill": "black"}
    for line, (share, label) in enumerate(worth_saying):
        row = size // 2 + line * round(1.3 * size)
        pen.text((column - pen.textlength(share, font), row), share, **style)
        pen.text((column + size // 2, row), label, **style)
    return np.asarray(image)


def write_mp4(pictures: Iterator[np.ndarray], target: Path, fps: float) -> None:
    """Encode pictures, uint8 `(H, W, 3)` of one even size, as H.264 in yuv420p, which every browser plays.

    Raises:
        OverlayError: the file cannot be written.
    """
    if target.suffix.lower() != ".mp4":
        raise OverlayError(f"The overlay is an mp4 video: name it {target.with_suffix('.mp4').name}.")
    rate = Fraction(fps).limit_denominator(1001)
    try:
        with replace_atomically(target) as temporary, av.open(str(temporary), "w") as container:
            stream = None
            for picture in pictures:
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate, options=_X264)
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            assert stream is not None  # a video that can be read has a frame
            container.mux(stream.encode())
    except OSError as error:
        raise OverlayError(f"{target} could not be written: {error.strerror or error}.") from error
