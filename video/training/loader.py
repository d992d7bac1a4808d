"""Batches of clips from worker processes, handed over in shared memory that is used again.

PyTorch's own way gives every batch new shared memory, which the kernel must clear and map page by page: for
16 frames of 224 x 224 pixels, a third as long as it takes to decode a small clip. Here each worker has a few
slots that it fills in turn, and the main process copies a batch out of its slot before it asks for the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from fibo_robot.errors import FiboError
from fibo_robot.video.training.clips import (
    BrokenClip,
    ClipBatch,
    ClipDataset,
    Sample,
    collate_clips,
    new_clips,
)

_PREFETCH = 2  # batches that a worker prepares ahead: DataLoader's own default


class ClipLoader(DataLoader[Any]):
    """A DataLoader of :class:`fibo_robot.video.training.clips.ClipBatch`, with workers that outlive an epoch.

    Args:
        data: the clips.
        batches: yields the batches, each a list of what `data` is asked for.
        batch_size: clips in the largest batch.
        num_workers: processes that decode; 0 decodes in this one.
        pin_memory: put clips into page-locked memory, for a faster way to a GPU.

    Raises:
        FiboError: the system has too little shared memory.
    """

    def __init__(
        self,
        data: ClipDataset,
        batches: Sampler[list[tuple[int, int]]] | Sequence[list[tuple[int, int]]],
        *,
        batch_size: int,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        shape = (batch_size, data.sampling.frames, 3, data.image_size, data.image_size)
        self._slots = _Slots(num_workers, shape) if num_workers > 0 else None
        self._pinned = pin_memory
        super().__init__(
            data,
            batch_sampler=batches,
            collate_fn=self._slots.fill if self._slots else partial(_collate, shape=shape),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=_PREFETCH if num_workers > 0 else None,
            pin_memory=pin_memory and num_workers == 0,  # what lies in a slot is pinned as it is copied
        )

    # DataLoader promises an iterator of its own kind, but asks for nothing more than to be iterated over.
    def __iter__(self) -> Iterator[ClipBatch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for batch in super().__iter__():
            if self._slots is not None:
                batch = self._slots.empty(batch, self._pinned)
            yield batch


def _collate(items: Sequence[Sample | BrokenClip], shape: tuple[int, ...]) -> ClipBatch:
    """Without workers: a batch in new memory."""
    return collate_clips(items, new_clips(*shape))


@dataclass(frozen=True)
class _Filled:
    """A batch that lies in a slot."""

    worker: int
    slot: int
    labels: np.ndarray  # a tensor would take new shared memory
    broken: list[BrokenClip]


class _Slots:
    """Shared memory for the clips of batches.

    A worker has at most `_PREFETCH` batches under way, and one more that the main process is copying when it
    gets its next task: with that many slots it never writes into one that is still to be read.

    Args:
        workers: processes that fill them.
        shape: of the largest batch of clips, uint8.

    Raises:
        FiboError: the system has too little shared memory.
    """

    def __init__(self, workers: int, shape: tuple[int, ...]) -> None:
        clips = new_clips(workers, _PREFETCH + 1, *shape)
        try:
            self._clips = clips.share_memory_()
        except RuntimeError as error:
            raise FiboError(
                f"{workers} workers need {clips.nbytes >> 20} MiB of shared memory for batches ({error}); "
                "use fewer workers or smaller batches, or give the container more of it (docker: --shm-size)."
            ) from error
        self._turn = 0  # each worker counts its own

    def fill(self, items: Sequence[Sample | BrokenClip]) -> _Filled:
        """In a worker: put a batch into the next slot; broken clips are left out and listed."""
        info = get_worker_info()
        assert info is not None  # only workers fill slots
        worker = info.id
        slot, self._turn = self._turn, (self._turn + 1) % self._clips.shape[1]
        batch = collate_clips(items, out=self._clips[worker, slot])
        return _Filled(worker, slot, batch["labels"].numpy(), batch["broken"])

    def empty(self, filled: _Filled, pinned: bool) -> ClipBatch:
        """In the main process: the batch, in memory of its own."""
        clips = self._clips[filled.worker, filled.slot, : len(filled.labels)]
        return {
            # NumPy copies in this thread alone; PyTorch's threads would fight the workers for their cores.
            "clips": clips.pin_memory() if pinned else torch.from_numpy(clips.numpy().copy(order="K")),
            "labels": torch.from_numpy(filled.labels),
            "broken": filled.broken,
        }
