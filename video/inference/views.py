"""Clips for testing, cut from a file in one pass: evenly spread views, square crops."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.excerpt import Span
from fibo_robot.video.training.clips import crop_and_resize
from fibo_robot.video.training.sampling import ClipSampling, Cropping


def square_crops(picture: np.ndarray, cropping: Cropping, size: int, crops: int = 1) -> Tensor:
    """The squares of one picture that are tested, uint8 `(crops, 3, size, size)`.

    Args:
        picture: uint8 `(H, W, 3)`.
        cropping: how large they are.
        size: pixels to which each is scaled.
        crops: how many, spread along the longer side.
    """
    frame = torch.from_numpy(picture).permute(2, 0, 1)
    height, width = picture.shape[:2]
    boxes = cropping.test(height, width, crops)
    return torch.stack([crop_and_resize(frame, box, size) for box in boxes])


def read_views(
    path: Path | str,
    sampling: ClipSampling,
    cut: Callable[[np.ndarray], Tensor],
    views: int = 1,
    span: Span | None = None,
) -> Tensor:
    """Clips for testing: uint8 `(views * crops, T, 3, S, S)`, all crops of the first view first.

    Views share frames and stretches of the file, so all are read in one pass; each frame is cut and scaled as
    it is decoded.

    Args:
        path: a clip; it is checked as a whole.
        sampling: which frames.
        cut: a picture, uint8 `(H, W, 3)`, to the parts that are tested, uint8 `(crops, 3, S, S)`.
        views: clips spread over the video.
        span: the part of the file that is the clip; None is all.

    Raises:
        VideoDecodeError: the clip cannot be read.
    """
    reader = open_clip(Path(path), span=span)
    numbers = np.stack([reader.at_even_times(view) for view in sampling.views(len(reader), views)])
    distinct, places = np.unique(numbers, return_inverse=True)
    squares = torch.stack([cut(frame) for frame in reader.stream(distinct)])
    clips = squares[torch.from_numpy(places.reshape(numbers.shape))]  # (views, T, crops, 3, S, S)
    return clips.transpose(1, 2).flatten(0, 1)
