"""Clips as tensors: choose frames, decode, crop, resize; seeded by the sample's number, not by the worker."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from fibo_robot.training.sampler import derived_seed
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.training.sampling import Box, ClipSampling, Cropping


@dataclass(frozen=True)
class BrokenClip:
    """A clip that could not be read, by :attr:`LabelledClip.name`, and why."""

    path: Path
    reason: str


class ClipBatch(TypedDict):
    """A batch of clips.

    `clips`: uint8 `(B, T, 3, S, S)`; `labels`: int64 `(B,)`, of multi-label clips float `(B, classes)` of
    zeros and ones; `broken`: what was left out of it.
    """

    clips: Tensor
    labels: Tensor
    broken: list[BrokenClip]


Sample = tuple[Tensor, int | Tensor]


class ClipDataset(Dataset[Sample | BrokenClip]):
    """Labelled clips; an item is `(uint8 (T, 3, S, S), label)`, or a :class:`BrokenClip`.

    A label is a class's number; of multi-label clips, float `(classes,)`, 1 where a class is among theirs.

    Items are asked for as `(index, draw)`; in training the frames and the crop follow from the seed and
    `draw` alone, so they are the same with any number of workers. In evaluation they are the middle ones.

    `dataset[index]` works, too: in training it draws from torch's global generator, as torchvision's
    transforms do, and a clip that cannot be read raises a VideoDecodeError.

    Args:
        clips: the clips.
        labels: names of the classes; a class's number is its place in this list.
        sampling: which frames.
        cropping: which part of the picture.
        image_size: S, pixels of the square frames.
        training: random frames and crops; otherwise the middle ones.
        seed: of everything random.
        shuffle_frames: put the frames of each clip in random order: a control that can see what is in the
            pictures, but not in which order.
        repeats: draws that share the frames of a clip, each with a crop of its own; in a batch, these frames
            are decoded once.
        cache_side: decode every clip once and keep all its frames in memory, their shorter side this many
            pixels; None decodes at each use.
        multi_label: clips have any number of labels; without it, one each.

    Attributes:
        targets: of each clip, the numbers of its classes; the number alone without `multi_label`.
    """

    def __init__(
        self,
        clips: Sequence[LabelledClip],
        labels: Sequence[str],
        sampling: ClipSampling = ClipSampling(),  # noqa: B008  # they are frozen
        cropping: Cropping = Cropping(),  # noqa: B008
        image_size: int = 224,
        *,
        training: bool = False,
        seed: int = 0,
        shuffle_frames: bool = False,
        repeats: int = 1,
        cache_side: int | None = None,
        multi_label: bool = False,
    ) -> None:
        numbers = {name: number for number, name in enumerate(labels)}
        self.clips, self._classes = list(clips), len(labels)
        self.targets: list[int] | list[tuple[int, ...]] = (
            [tuple(numbers[label] for label in clip.labels) for clip in self.clips]
            if multi_label
            else [numbers[clip.label] for clip in self.clips]
        )
        self.sampling, self.cropping, self.image_size = sampling, cropping, image_size
        self.training, self.seed, self.shuffle_frames = training, seed, shuffle_frames
        self.repeats, self.cache_side = repeats, cache_side
        self._cache: dict[int, Tensor | BrokenClip] = {}

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, item: int) -> Sample: ...

    @overload
    def __getitem__(self, item: tuple[int, int]) -> Sample | BrokenClip: ...

    def __getitem__(self, item: int | tuple[int, int]) -> Sample | BrokenClip:
        if isinstance(item, tuple):
            return self._item(*item, {})
        draw = int(torch.randint(2**62, ())) if self.training else 0
        found = self._item(range(len(self))[operator.index(item)], draw, {})
        if isinstance(found, BrokenClip):
            raise VideoDecodeError(found.reason)
        return found

    def _item(self, index: int, draw: int, decoded: dict[tuple[int, int], Tensor]) -> Sample | BrokenClip:
        """One item; `decoded` keeps frames for further draws of them."""
        generator = np.random.default_rng(derived_seed(self.seed, draw if self.training else index))
        try:
            if self.repeats == 1:
                frames = self._frames(index, generator)
            else:
                shared = (index, draw // self.repeats)
                if shared not in decoded:
                    of_frames = np.random.default_rng(derived_seed(self.seed, *shared))
                    decoded[shared] = self._frames(index, of_frames)
                frames = decoded[shared]
        except VideoDecodeError as error:
            return BrokenClip(self.clips[index].name, str(error))
        if self.shuffle_frames:
            frames = frames[torch.from_numpy(generator.permutation(len(frames)))]
        height, width = frames.shape[-2:]
        box = (
            self.cropping.random(height, width, generator)
            if self.training
            else self.cropping.test(height, width)[0]
        )
        target = self.targets[index]
        label = target if isinstance(target, int) else multi_hot(target, self._classes)
        return crop_and_resize(frames, box, self.image_size), label

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> list[Sample | BrokenClip]:
        """A whole batch, as data loaders ask for it: by indices alone, or as `(index, draw)`.

        A step of training needs a clip: where not one of the batch can be read, the next one that can stands
        in for them. In evaluation each clip counts once, so nothing does.

        Raises:
            VideoDecodeError: not one clip of all can be read, in training.
        """
        decoded: dict[tuple[int, int], Tensor] = {}
        found = [self._item(*item, decoded) if isinstance(item, tuple) else self[item] for item in items]
        last = items[-1]
        if self.training and isinstance(last, tuple) and all(isinstance(item, BrokenClip) for item in found):
            index, draw = last
            for ahead in range(1, len(self)):
                found.append(self._item((index + ahead) % len(self), draw, decoded))
                if not isinstance(found[-1], BrokenClip):
                    return found
            reasons = [item.reason for item in found if isinstance(item, BrokenClip)]
            raise VideoDecodeError(f"None of {len(self)} clips could be read; the first: {reasons[0]}")
        return found

    def fill_cache(self, index: int) -> None:
        """Decode one clip into memory; call it before workers start, so that they share it.

        A clip that cannot be read is remembered as broken, and left out when it is asked for.
        """
        if self.cache_side is not None:
            self._cache[index] = _decode_whole(self.clips[index], self.cache_side)

    def _frames(self, index: int, generator: np.random.Generator) -> Tensor:
        """The sampled frames `(T, 3, H, W)`, uint8."""
        if self.cache_side is not None:
            frames = self._cached(index, self.cache_side)
            return frames[torch.from_numpy(self._choose(len(frames), generator))]
        # Files are checked once by `fibo data check`, not again at every use.
        clip = self.clips[index]
        reader = open_clip(clip.path, verify=False, span=clip.span)
        return reader.clip(self._choose(len(reader), generator))

    def _choose(self, num_frames: int, generator: np.random.Generator) -> np.ndarray:
        if self.training:
            return self.sampling.random(num_frames, generator)
        return self.sampling.views(num_frames)[0]

    def _cached(self, index: int, side: int) -> Tensor:
        if index not in self._cache:
            self._cache[index] = _decode_whole(self.clips[index], side)
        entry = self._cache[index]
        if isinstance(entry, BrokenClip):
            raise VideoDecodeError(entry.reason)
        return entry


def _decode_whole(clip: LabelledClip, side: int) -> Tensor | BrokenClip:
    """All frames `(N, 3, H, W)`, uint8, at an even rate, the shorter side scaled to `side` pixels.

    Each is scaled as it is decoded: a long clip is never in memory at its full size.
    """
    try:
        reader = open_clip(clip.path, span=clip.span)
        numbers = reader.at_even_times(np.arange(len(reader)))
        distinct, inverse = np.unique(numbers, return_inverse=True)
        frames = [_scaled(picture, side) for picture in reader.stream(distinct)]
    except VideoDecodeError as error:
        return BrokenClip(clip.name, str(error))
    return torch.stack(frames)[torch.from_numpy(inverse)]


def _scaled(picture: np.ndarray, side: int) -> Tensor:
    return transforms.resize(torch.from_numpy(picture).permute(2, 0, 1), [side], antialias=True)


def crop_and_resize(frames: Tensor, box: Box, size: int) -> Tensor:
    """Cut `box` out of `(…, 3, H, W)` and scale it to `(…, 3, size, size)`, with antialiasing."""
    return transforms.resized_crop(
        frames, box.top, box.left, box.height, box.width, [size, size], antialias=True
    )


def multi_hot(numbers: Sequence[int], classes: int) -> Tensor:
    """Float `(classes,)`: 1 at each of `numbers`, else 0."""
    target = torch.zeros(classes)
    target[list(numbers)] = 1
    return target


def new_clips(*shape: int) -> Tensor:
    """Room for clips `(…, 3, H, W)`, uint8, laid out as decoders do: the colours of a pixel side by side."""
    return torch.empty((*shape[:-3], *shape[-2:], shape[-3]), dtype=torch.uint8).movedim(-1, -3)


def collate_clips(items: Sequence[Sample | BrokenClip], out: Tensor) -> ClipBatch:
    """Stack items; broken clips are left out and listed.

    Args:
        items: of a :class:`ClipDataset`.
        out: where to stack the clips, from :func:`new_clips`, with room for all that could be read.
    """
    read = [item for item in items if not isinstance(item, BrokenClip)]
    for place, (clip, _) in zip(out, read):
        place.copy_(clip)
    labels = [label for _, label in read]
    multi_hot_labels = [label for label in labels if isinstance(label, Tensor)]
    return {
        "clips": out[: len(read)],
        "labels": torch.stack(multi_hot_labels)
        if multi_hot_labels
        else torch.tensor(labels, dtype=torch.int64),
        "broken": [item for item in items if isinstance(item, BrokenClip)],
    }
