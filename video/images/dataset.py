"""Pictures as tensors for training and testing, and how a part is divided."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fibo_robot.training.sampler import derived_seed
from fibo_robot.video.images.table import PictureError, PictureSet
from fibo_robot.video.training.clips import crop_and_resize
from fibo_robot.video.training.sampling import Cropping


class ImageBatch(TypedDict):
    """`images`: uint8 `(B, 3, S, S)`; `labels`: int64 `(B,)`."""

    images: Tensor
    labels: Tensor


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Labelled pictures; an item is `(uint8 (3, S, S), label)`.

    Items are asked for as `(index, draw)`; in training the crop follows from the seed and `draw` alone, so it
    is the same with any number of workers. In evaluation it is the middle square.

    Args:
        pictures: the pictures.
        cropping: which part of them.
        image_size: S, pixels.
        training: random crops; otherwise the middle one.
        seed: of the crops.
    """

    def __init__(
        self, pictures: PictureSet, cropping: Cropping, image_size: int, *, training: bool, seed: int = 0
    ) -> None:
        self.pictures, self.cropping, self.image_size = pictures, cropping, image_size
        self.training, self.seed = training, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        index, draw = item
        picture = self.pictures.read(index)
        height, width = picture.shape[-2:]
        if self.training:
            generator = np.random.default_rng(derived_seed(self.seed, draw))
            box = self.cropping.random(height, width, generator)
        else:
            box = self.cropping.test(height, width)[0]
        return crop_and_resize(picture, box, self.image_size), int(self.pictures.targets[index])


def collate_images(items: Sequence[tuple[Tensor, int]]) -> ImageBatch:
    """Stack items of an :class:`ImageDataset`."""
    images, labels = zip(*items)
    return {"images": torch.stack(images), "labels": torch.tensor(labels, dtype=torch.int64)}


def divide(
    pictures: PictureSet, valid_share: float, train_pictures: int | None = None, seed: int = 0
) -> tuple[PictureSet, PictureSet]:
    """Hold out a share of a part for validation, and keep some of the rest for training.

    Every class gives the same share to both. The division follows from the targets and `seed` alone;
    validation does not depend on `train_pictures`, and a smaller training set is part of every larger one.

    Args:
        pictures: all of a part.
        valid_share: in [0, 1).
        train_pictures: how many to keep for training; None keeps all that are left.
        seed: which picture goes where.

    Returns:
        Training and validation pictures.

    Raises:
        PictureError: the share does not lie in [0, 1), or fewer pictures are left than asked for.
    """
    if not 0 <= valid_share < 1:
        raise PictureError(f"valid_share must lie in [0, 1), not {valid_share}.")
    place = np.empty(len(pictures))  # of a picture in the random order of its class, in (0, 1)
    for target in np.unique(pictures.targets):
        members = np.flatnonzero(pictures.targets == target)
        order = np.random.default_rng(derived_seed(seed, int(target))).permutation(len(members))
        place[members[order]] = (np.arange(len(members)) + 0.5) / len(members)
    ordered = np.lexsort((pictures.targets, place))
    left = len(ordered) - round(valid_share * len(ordered))
    wanted = left if train_pictures is None else train_pictures
    if not 0 < wanted <= left:
        raise PictureError(f"{left} pictures are left for training, {wanted} are asked for.")
    return pictures.take(ordered[:wanted]), pictures.take(ordered[left:])
