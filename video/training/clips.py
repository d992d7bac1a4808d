"""Clips as tensors: choose frames, decode, crop, resize; seeded by the sample's number, not by the worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from fibo_robot.training.sampler import derived_seed
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.reading.frames import DEFAULT_FRAME_RATE, FrameFolder
from fibo_robot.video.reading.reader import VideoDecodeError, VideoReader
from fibo_robot.video.training.sampling import Box, ClipSampling, Cropping, at_even_times


@dataclass(frozen=True)
class BrokenClip:
    """A clip that could not be read, and why."""

    path: Path
    reason: str


class ClipBatch(TypedDict):
    """A batch of clips.

    `clips`: uint8 `(B, T, 3, S, S)`; `labels`: int64 `(B,)`; `broken`: what was left out of it.
    """

    clips: Tensor
    labels: Tensor
    broken: list[BrokenClip]


class ClipDataset(Dataset[tuple[Tensor, int] | BrokenClip]):
    """Labelled clips; an item is `(uint8 (T, 3, S, S), label)`, or a :class:`BrokenClip`.

    Items are asked for as `(index, draw)`; in training the frames and the crop follow from the seed and
    `draw` alone, so they are the same with any number of workers. In evaluation they are the middle ones.

    Args:
        clips: the clips.
        labels: names of the classes; a clip's label is its number in this list.
        sampling: which frames.
        cropping: which part of the picture.
        image_size: S, pixels of the square frames.
        training: random frames and crops; otherwise the middle ones.
        seed: of everything random.
        shuffle_frames: put the frames of each clip in random order: a control that can see what is in the
            pictures, but not in which order.
        cache_side: decode every clip once and keep all its frames in memory, their shorter side this many
            pixels; None decodes at each use.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        labels: Sequence[str],
        sampling: ClipSampling,
        cropping: Cropping,
        image_size: int,
        *,
        training: bool,
        seed: int = 0,
        shuffle_frames: bool = False,
        cache_side: int | None = None,
    ) -> None:
        numbers = {name: number for number, name in enumerate(labels)}
        self.clips = list(clips)
        self.targets = [numbers[clip.label] for clip in self.clips]
        self.sampling, self.cropping, self.image_size = sampling, cropping, image_size
        self.training, self.seed, self.shuffle_frames = training, seed, shuffle_frames
        self.cache_side = cache_side
        self._cache: dict[int, Tensor | BrokenClip] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int] | BrokenClip:
        index, draw = item
        generator = np.random.default_rng(derived_seed(self.seed, draw if self.training else index))
        try:
            frames = self._frames(index, generator)
        except VideoDecodeError as error:
            return BrokenClip(self.clips[index].path, str(error))
        if self.shuffle_frames:
            frames = frames[torch.from_numpy(generator.permutation(len(frames)))]
        height, width = frames.shape[-2:]
        box = (
            self.cropping.random(height, width, generator)
            if self.training
            else self.cropping.test(height, width)[0]
        )
        return crop_and_resize(frames, box, self.image_size), self.targets[index]

    def fill_cache(self, index: int) -> None:
        """Decode one clip into memory; call it before workers start, so that they share it.

        A clip that cannot be read is remembered as broken, and left out when it is asked for.
        """
        self._cache[index] = self._decode_whole(self.clips[index].path)

    def _frames(self, index: int, generator: np.random.Generator) -> Tensor:
        """The sampled frames `(T, 3, H, W)`, uint8."""
        if self.cache_side is not None:
            frames = self._cached(index)
            return frames[torch.from_numpy(self._choose(len(frames), generator))]
        # Files are checked once by `fibo data check`, not again at every use.
        reader = open_clip(self.clips[index].path, verify=False)
        chosen = self._choose(len(reader), generator)
        if reader.variable_rate:
            chosen = at_even_times(chosen, reader.timestamps)
        return torch.from_numpy(reader.read(chosen)).permute(0, 3, 1, 2)

    def _choose(self, num_frames: int, generator: np.random.Generator) -> np.ndarray:
        if self.training:
            return self.sampling.random(num_frames, generator)
        return self.sampling.views(num_frames)[0]

    def _cached(self, index: int) -> Tensor:
        if index not in self._cache:
            self._cache[index] = self._decode_whole(self.clips[index].path)
        entry = self._cache[index]
        if isinstance(entry, BrokenClip):
            raise VideoDecodeError(entry.reason)
        return entry

    def _decode_whole(self, path: Path) -> Tensor | BrokenClip:
        try:
            reader = open_clip(path)
            numbers = np.arange(len(reader))
            if reader.variable_rate:
                numbers = at_even_times(numbers, reader.timestamps)
            frames = torch.from_numpy(reader.read(numbers)).permute(0, 3, 1, 2)
        except VideoDecodeError as error:
            return BrokenClip(path, str(error))
        return transforms.resize(frames, [self.cache_side], antialias=True).contiguous()


def open_clip(
    path: Path, verify: bool = True, frame_rate: float = DEFAULT_FRAME_RATE
) -> VideoReader | FrameFolder:
    """Open a clip for reading: a video file, a video inside a tar file, or a folder of its frames.

    Args:
        path: as in :class:`fibo_robot.video.datasets.table.LabelledClip`.
        verify: decode all of it once, so that hidden damage is found.
        frame_rate: of a folder of pictures, which does not tell it.

    Raises:
        VideoDecodeError: it cannot be read.
    """
    if path.is_dir():
        return FrameFolder(path, fps=frame_rate, verify=verify)
    return VideoReader(path, verify=verify)


def crop_and_resize(frames: Tensor, box: Box, size: int) -> Tensor:
    """Cut `box` out of `(…, 3, H, W)` and scale it to `(…, 3, size, size)`, with antialiasing."""
    return transforms.resized_crop(
        frames, box.top, box.left, box.height, box.width, [size, size], antialias=True
    )


def new_clips(*shape: int) -> Tensor:
    """Room for clips `(…, 3, H, W)`, uint8, laid out as decoders do: the colours of a pixel side by side."""
    return torch.empty((*shape[:-3], *shape[-2:], shape[-3]), dtype=torch.uint8).movedim(-1, -3)


def collate_clips(items: Sequence[tuple[Tensor, int] | BrokenClip], out: Tensor | None = None) -> ClipBatch:
    """Stack items; broken clips are left out and listed.

    Args:
        items: of a :class:`ClipDataset`.
        out: where to stack the clips, from :func:`new_clips`, with room for all; new memory when None.

    Raises:
        VideoDecodeError: not one clip of the batch could be read.
    """
    read = [item for item in items if not isinstance(item, BrokenClip)]
    broken = [item for item in items if isinstance(item, BrokenClip)]
    if not read:
        raise VideoDecodeError(f"None of {len(items)} clips could be read; the first: {broken[0].reason}")
    clips = (new_clips(len(read), *read[0][0].shape) if out is None else out)[: len(read)]
    for place, (clip, _) in zip(clips, read, strict=True):
        place.copy_(clip)
    return {
        "clips": clips,
        "labels": torch.tensor([label for _, label in read]),
        "broken": broken,
    }
