"""A copy of a video with its labels and the encoder's attention written onto it.

The map shows how much each patch is attended to by all others in one layer, averaged over heads: the column
sums of its attention matrix (:mod:`fibo_robot.attention.maps`).
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.maps import OverlayError, blend, heat_map, received_attention
from fibo_robot.encoders import VideoEncoder
from fibo_robot.files import replace_atomically
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.inference.predict import Score, best_scores
from fibo_robot.video.inference.windows import SlidingWindow, frame_times
from fibo_robot.video.training.clips import crop_and_resize, open_clip
from fibo_robot.video.training.sampling import Box

MIN_HEIGHT = 360  # smaller videos are enlarged, so that the words can be read
FRAMES_AT_ONCE = 32  # decoded together; bounds memory


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
    with _watching(core, encoder.num_prefix_tokens) as seen:
        encoder(clip[None].to(encoder.mean.device))
    return heat_map(torch.cat(seen).reshape(encoder.grid))


@contextmanager
def _watching(core: AttentionCore, num_prefix_tokens: int) -> Iterator[list[Tensor]]:
    """Collect what patches receive, `(B, N)`, in every pass through a core."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        received = received_attention(core, *inputs, num_prefix_tokens=num_prefix_tokens)
        seen.append(received[..., num_prefix_tokens:].mean(1))

    handle = core.register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def write_overlay(
    classifier: VideoClassifier,
    path: Path | str,
    target: Path | str,
    *,
    window: SlidingWindow | None = None,
    top_k: int = 3,
    layer: int = -1,
) -> None:
    """Write `target`, an mp4 of the video with the most probable classes and the attention map on it.

    Args:
        classifier: from `load_classifier`.
        path: a video file.
        target: the mp4 to write.
        window: classify window by window, as `classify_windows` does; None classifies the video as a whole.
        top_k: how many classes to write.
        layer: whose attention to show; see :func:`attention_map`.

    Raises:
        VideoDecodeError: the video cannot be read.
        OverlayError: the copy cannot be written.
    """
    reader = open_clip(Path(path))
    duration = float(reader.timestamps[-1] + 1 / reader.fps)
    window = window or SlidingWindow(duration)
    starts = window.starts(duration)
    middles = np.array([start + min(window.length, duration - start) / 2 for start in starts])
    # The window whose middle is nearest speaks for a frame, as in `merge_windows`.
    speaker = np.abs(reader.timestamps[:, None] - middles).argmin(1)

    def pictures() -> Iterator[np.ndarray]:
        shown, scores, heat, times = -1, (), np.empty(0), np.empty(0)
        blocks = range(0, len(reader), FRAMES_AT_ONCE)
        for first in track(blocks, "drawing", disable=not sys.stdout.isatty(), transient=True):
            numbers = np.arange(first, min(first + FRAMES_AT_ONCE, len(reader)))
            for number, picture in zip(numbers, reader.read(numbers)):
                if speaker[number] != shown:
                    shown = int(speaker[number])
                    length = min(window.length, duration - starts[shown])
                    times = frame_times(classifier.sampling, starts[shown], length, reader.fps)
                    chosen = np.searchsorted(reader.timestamps, times + 1e-6, side="right") - 1
                    scores, heat = _look(classifier, reader.read(chosen.clip(0)), top_k, layer)
                nearest = int(np.abs(times - reader.timestamps[number]).argmin())
                slice_of_clip = heat[nearest * len(heat) // len(times)]
                box = classifier.cropping.test(*picture.shape[:2])[0]
                yield draw(picture, box, slice_of_clip, scores)

    write_mp4(pictures(), Path(target), reader.fps)


def _look(
    classifier: VideoClassifier, frames: np.ndarray, top_k: int, layer: int
) -> tuple[tuple[Score, ...], np.ndarray]:
    """Labels and attention map of one clip, uint8 `(T, H, W, 3)`, cut as for testing."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    box = classifier.cropping.test(*pictures.shape[-2:])[0]
    clip = crop_and_resize(pictures, box, classifier.encoder.image_size[0])
    with torch.no_grad():
        scores = classifier(clip[None].to(classifier.encoder.mean.device)).float().cpu()
    return best_scores(classifier, scores, top_k), attention_map(classifier.encoder, clip, layer)


def draw(picture: np.ndarray, box: Box, heat: np.ndarray, scores: Sequence[Score]) -> np.ndarray:
    """Lay a map over the part of a picture that the classifier saw, and write its labels above.

    Args:
        picture: uint8 `(H, W, 3)`.
        box: the part that was seen.
        heat: `(H', W')` in [0, 1].
        scores: the labels, most probable first.

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
    font = ImageFont.load_default(size)
    for line, score in enumerate(scores):
        place = (size // 2, size // 2 + line * round(1.3 * size))
        text = f"{score.probability:4.0%}  {score.label}"
        pen.text(place, text, font=font, fill="white", stroke_width=max(1, size // 10), stroke_fill="black")
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
                    stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            assert stream is not None  # a video that can be read has a frame
            container.mux(stream.encode())
    except OSError as error:
        raise OverlayError(f"{target} could not be written: {error.strerror or error}.") from error
