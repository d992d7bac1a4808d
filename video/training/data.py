"""The LightningDataModule for labelled clips."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from fibo_robot.errors import FiboError
from fibo_robot.progress import track
from fibo_robot.training.sampler import StepSampler, evaluation_batches
from fibo_robot.video.datasets.layouts.multi_label import SEPARATOR
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTable, LabelledClip, in_both
from fibo_robot.video.training.clips import ClipBatch, ClipDataset
from fibo_robot.video.training.loader import ClipLoader
from fibo_robot.video.training.sampling import ClipSampling, Cropping, square_side


class TooManyBrokenClipsError(FiboError):
    """More clips than allowed cannot be read."""


def _warn_of_seen(seen: Sequence[LabelledClip], total: int) -> None:
    if seen:
        warnings.warn(
            f"{len(seen)} of {total} clips to validate on are for training, too, or share seconds with one "
            f"that is (the first: {seen[0].name}): valid/ metrics are not of unseen clips. Move them to one "
            "part, or set data.valid_split.",
            stacklevel=3,
        )


class VideoData(pl.LightningDataModule):
    """Clips for training and validation.

    Args:
        root: what :func:`fibo_robot.video.datasets.recognise.read_clips` reads.
        sampling: which frames make a clip.
        cropping: which part of the picture.
        image_size: pixels of the square frames; a pair of two equal numbers is one.
        batch_size: clips per step and process.
        steps_per_epoch: steps between two checkpoints.
        train_split, valid_split: names of the parts. `train_split` None means all clips outside
            `valid_split`, `valid_split` None no validation.
        split_column: column of the table that tells the part.
        protocol: which of a public data set's official splits; its first one when None.
        num_workers: processes that decode.
        cache_side: keep all frames in memory at this size (shorter side, pixels); None decodes at each use.
        shuffle_frames: the control that sees no order; see ClipDataset.
        repeated_augmentation: how often each clip stands in its batch, cut and augmented anew each time but
            decoded once (arXiv 1901.09335); `batch_size` must be a multiple.
        multi_label: each clip has any number of labels; see `read_clips`.
        max_bad_fraction: share of unreadable clips above which the run stops with a list of them.
        seed: decides the order of clips, their frames and crops.
    """

    def __init__(
        self,
        root: str,
        sampling: ClipSampling,
        cropping: Cropping,
        image_size: int | Sequence[int],
        batch_size: int = 16,
        steps_per_epoch: int = 100,
        train_split: str | None = "train",
        valid_split: str | None = "test",
        split_column: str = "split",
        protocol: str | None = None,
        num_workers: int = 0,
        cache_side: int | None = None,
        shuffle_frames: bool = False,
        repeated_augmentation: int = 1,
        multi_label: bool = False,
        max_bad_fraction: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.sampling, self.cropping = Path(root), sampling, cropping
        self.image_size = square_side(image_size)
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.train_split, self.valid_split = train_split, valid_split
        self.split_column, self.protocol = split_column, protocol
        self.num_workers, self.cache_side, self.shuffle_frames = num_workers, cache_side, shuffle_frames
        self.repeated_augmentation, self.multi_label = repeated_augmentation, multi_label
        self.max_bad_fraction = max_bad_fraction
        self.table: ClipTable | None = None
        self.train: ClipDataset | None = None
        self.valid: ClipDataset | None = None
        self.broken: dict[Path, str] = {}

    def setup(self, stage: str) -> None:
        if self.table is not None:
            return
        self.table = read_clips(self.root, self.split_column, self.protocol, self.multi_label)
        rank_zero_info(f"{len(self.table.clips)} clips from {self.table.description}")
        labels = self.table.labels
        train = self.table.part(self.train_split, exclude=self.valid_split)
        self.train = self._dataset(train, labels, True)
        if self.valid_split is not None:
            valid = self.table.part(self.valid_split)
            self.valid = self._dataset(valid, labels, False)
            _warn_of_seen(in_both(valid, train), len(valid))
        if self.cache_side is not None:
            self._fill_cache()

    def _dataset(self, clips: list[LabelledClip], labels: list[str], training: bool) -> ClipDataset:
        return ClipDataset(
            clips,
            labels,
            self.sampling,
            self.cropping,
            self.image_size,
            training=training,
            seed=self.seed,
            shuffle_frames=self.shuffle_frames,
            repeats=self.repeated_augmentation if training else 1,
            cache_side=self.cache_side,
            multi_label=self.multi_label,
        )

    def _fill_cache(self) -> None:
        jobs = [(data, index) for data in (self.train, self.valid) if data for index in range(len(data))]
        for data, index in track(jobs, "decoding clips"):
            data.fill_cache(index)

    def model_inputs(self) -> dict[str, Any]:
        """What the classifier is built from, once the table is read."""
        assert self.table is not None
        return {"labels": self.table.labels, "multi_label": self.multi_label}

    def meta(self) -> dict[str, Any]:
        """What the checkpoint records about the data."""
        assert self.table is not None and self.train is not None
        names = "\n".join(
            f"{clip.name.name}\t{SEPARATOR.join(clip.labels)}\t{clip.split}" for clip in self.table.clips
        )
        return {
            "sampling": self.sampling.to_dict(),
            "cropping": self.cropping.to_dict(),
            "shuffle_frames": self.shuffle_frames,
            "dataset": {
                "name": self.root.name,
                "protocol": self.protocol,
                "sha256": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
                "train_clips": len(self.train),
                "valid_clips": len(self.valid) if self.valid else 0,
            },
        }

    def train_dataloader(self) -> ClipLoader:
        assert self.train is not None and self.trainer is not None
        sampler = StepSampler.for_trainer(
            self.trainer,
            len(self.train),
            self.batch_size,
            self.steps_per_epoch,
            self.seed,
            repeats=self.repeated_augmentation,
        )
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> ClipLoader | list[Any]:
        if self.valid is None:
            return []
        assert self.trainer is not None
        return self._loader(self.valid, evaluation_batches(self.trainer, len(self.valid), self.batch_size))

    def _loader(self, data: ClipDataset, batches: Any) -> ClipLoader:
        return ClipLoader(
            data,
            batches,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def on_before_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Name every unreadable clip once, and stop when there are too many of them."""
        for clip in batch["broken"]:
            if clip.path not in self.broken:
                self.broken[clip.path] = clip.reason
                warnings.warn(f"left out: {clip.reason}", stacklevel=1)
        total = len(self.train or ()) + len(self.valid or ())
        if len(self.broken) > self.max_bad_fraction * total:
            listed = "\n  ".join(self.broken.values())
            raise TooManyBrokenClipsError(
                f"{len(self.broken)} of {total} clips cannot be read, more than max_bad_fraction="
                f"{self.max_bad_fraction:g} allows. Mend or remove them, or raise data.max_bad_fraction:"
                f"\n  {listed}"
            )
        # They have been told; Lightning, which moves a batch to its device, knows tensors and plain values.
        return {**batch, "broken": []}
