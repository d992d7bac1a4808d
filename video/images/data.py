"""The LightningDataModule for labelled pictures."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from fibo_robot.training.sampler import StepSampler, evaluation_batches
from fibo_robot.video.images.dataset import ImageDataset, collate_images, divide
from fibo_robot.video.images.table import PictureSet, PictureTable, read_pictures
from fibo_robot.video.training.sampling import Cropping, square_side


class ImageData(pl.LightningDataModule):
    """Pictures for training and validation; the test split is never looked at.

    Args:
        root: what :func:`fibo_robot.video.images.table.read_pictures` reads.
        cropping: which part of the picture.
        image_size: pixels of the square images; a pair of two equal numbers is one.
        batch_size: pictures per step and process.
        steps_per_epoch: steps between two checkpoints.
        train_split: name of the part to train on.
        valid_split: name of the part to validate on; None holds out a share of the training part.
        valid_share: that share; 0 does not validate. See :func:`fibo_robot.video.images.dataset.divide`.
        train_pictures: how many of the rest to train on; None takes all.
        division_seed: which pictures are held out and kept.
        num_workers: processes that decode.
        seed: decides the order of pictures and their crops.
    """

    def __init__(
        self,
        root: str,
        cropping: Cropping,
        image_size: int | Sequence[int],
        batch_size: int = 128,
        steps_per_epoch: int = 100,
        train_split: str = "train",
        valid_split: str | None = None,
        valid_share: float = 0.1,
        train_pictures: int | None = None,
        division_seed: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.cropping, self.image_size = Path(root), cropping, square_side(image_size)
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.train_split, self.valid_split, self.valid_share = train_split, valid_split, valid_share
        self.train_pictures, self.division_seed, self.num_workers = train_pictures, division_seed, num_workers
        self.table: PictureTable | None = None
        self.train: ImageDataset | None = None
        self.valid: ImageDataset | None = None

    def setup(self, stage: str) -> None:
        if self.table is not None:
            return
        self.table = read_pictures(self.root)
        share = self.valid_share if self.valid_split is None else 0.0
        train, valid = divide(
            self.table.part(self.train_split), share, self.train_pictures, self.division_seed
        )
        if self.valid_split is not None:
            valid = self.table.part(self.valid_split)
        rank_zero_info(f"{len(train)} pictures to train on, {len(valid)} to validate on: {self.root.name}")
        self.train = self._dataset(train, True)
        self.valid = self._dataset(valid, False) if len(valid) else None

    def _dataset(self, pictures: PictureSet, training: bool) -> ImageDataset:
        return ImageDataset(pictures, self.cropping, self.image_size, training=training, seed=self.seed)

    def model_inputs(self) -> dict[str, Any]:
        """What the classifier is built from, once the table is read."""
        assert self.table is not None
        return {"labels": self.table.labels}

    def meta(self) -> dict[str, Any]:
        """What the checkpoint records about the data."""
        assert self.train is not None
        pictures = self.train.pictures
        # By file names: the folder may be moved.
        names = (Path(name).name for name in pictures.names)
        listed = "\n".join(f"{name}\t{target}" for name, target in zip(names, pictures.targets))
        return {
            "cropping": self.cropping.to_dict(),
            "dataset": {
                "name": self.root.name,
                "sha256": hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest(),
                "train_pictures": len(pictures),
                "valid_pictures": len(self.valid) if self.valid else 0,
            },
        }

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.train is not None and self.trainer is not None
        sampler = StepSampler.for_trainer(
            self.trainer, len(self.train), self.batch_size, self.steps_per_epoch, self.seed
        )
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.valid is None:
            return []
        assert self.trainer is not None
        return self._loader(self.valid, evaluation_batches(self.trainer, len(self.valid), self.batch_size))

    def _loader(self, data: ImageDataset, batches: Any) -> DataLoader[Any]:
        return DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collate_images,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )
