"""Dividing a part, and pictures as samples."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fibo_robot.video.images.data import ImageData
from fibo_robot.video.images.dataset import ImageDataset, collate_images, divide
from fibo_robot.video.images.table import PictureError, PictureSet, read_pictures
from fibo_robot.video.training.sampling import Cropping


def numbered(counts: list[int]) -> PictureSet:
    """Pictures without content, so many of each class, mixed."""
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    names = [str(number) for number in range(len(targets))]
    return PictureSet(names, [b""] * len(targets), targets)


def test_a_division_is_fixed_even_over_classes_and_without_overlap() -> None:
    pictures = numbered([100, 60, 40])
    train, valid = divide(pictures, 0.1)
    assert np.bincount(valid.targets).tolist() == [10, 6, 4]
    assert sorted([*train.names, *valid.names], key=int) == pictures.names
    again, _ = divide(pictures, 0.1)
    other, _ = divide(pictures, 0.1, seed=1)
    assert again.names == train.names and set(other.names) != set(train.names)


def test_smaller_training_sets_are_parts_of_larger_ones_beside_the_same_validation() -> None:
    pictures = numbered([100, 100])
    small, large = divide(pictures, 0.2, 20), divide(pictures, 0.2, 100)
    assert set(small[0].names) < set(large[0].names) and small[1].names == large[1].names
    assert np.bincount(small[0].targets).tolist() == [10, 10]
    assert all(
        pictures.targets[int(name)] == target for name, target in zip(small[0].names, small[0].targets)
    )


@pytest.mark.parametrize(("share", "count"), [(1.0, None), (-0.1, None), (0.5, 51), (0.5, 0)])
def test_divisions_that_cannot_be_are_refused(share, count) -> None:
    with pytest.raises(PictureError):
        divide(numbered([50, 50]), share, count)


def test_samples_follow_from_seed_and_draw_alone(coloured) -> None:
    pictures = read_pictures(coloured).part("train")
    data = ImageDataset(pictures, Cropping(), 12, training=True, seed=3)
    image, label = data[30, 7]
    assert image.shape == (3, 12, 12) and image.dtype == torch.uint8 and label == pictures.targets[30]
    assert torch.equal(image, ImageDataset(pictures, Cropping(), 12, training=True, seed=3)[30, 7][0])
    assert not torch.equal(image, data[30, 8][0])
    middle = ImageDataset(pictures, Cropping(), 16, training=False)
    assert torch.equal(middle[30, 0][0], pictures.read(30)[:, :, 2:18])  # 16 pixels high, 20 wide
    batch = collate_images([data[0, 0], data[59, 1]])
    assert batch["images"].shape == (2, 3, 12, 12) and batch["labels"].tolist() == [0, 2]


def test_data_that_were_moved_are_the_same_data(coloured, tmp_path) -> None:
    def hash_of(root: Path, train_pictures: int | None = None) -> str:
        data = ImageData(str(root), Cropping(), 16, train_pictures=train_pictures)
        data.setup("fit")
        return data.meta()["dataset"]["sha256"]

    moved = shutil.copytree(coloured, tmp_path / "moved")
    assert hash_of(moved) == hash_of(coloured) != hash_of(coloured, train_pictures=30)
