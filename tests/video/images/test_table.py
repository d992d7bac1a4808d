"""Image folders and parquet files give the same pictures; what is laid out otherwise is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.video.images.table import PictureError, read_picture, read_pictures
from fibo_robot.video.reading.frames import FrameFolder
from tests.video.images.conftest import COLOURS, picture, png, write_parquet


def test_folders_of_classes_in_folders_of_splits(coloured: Path) -> None:
    table = read_pictures(coloured)
    assert table.labels == ["blue", "green", "red"] and set(table.parts) == {"train", "test"}
    train = table.part("train")
    assert np.bincount(train.targets).tolist() == [20, 20, 20]
    for index in (0, 25, 59):
        label = table.labels[int(train.targets[index])]
        assert Path(train.names[index]).parent.name == label
        assert train.read(index).float().mean((1, 2)).argmax() == np.argmax(COLOURS[label])


def test_validation_goes_by_many_names_and_an_unsplit_folder_is_one_part(
    coloured: Path, tmp_path: Path
) -> None:
    (tmp_path / "validation").symlink_to(coloured / "test")
    (tmp_path / "Training").symlink_to(coloured / "train")
    table = read_pictures(tmp_path)
    assert len(table.part("val")) == len(table.part("validation")) == 12
    assert list(read_pictures(coloured / "train").parts) == ["all"]


@pytest.mark.parquet
@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_files_hold_the_same_pictures_as_the_files_they_were_made_of(
    column: str, tmp_path: Path
) -> None:
    images = [picture(colour, seed) for seed, colour in enumerate(["red", "blue", "red", "green"])]
    names = ["blue", "green", "red"]
    for shard, rows in enumerate(([0, 1], [2, 3])):
        labels = [[2, 0, 2, 1][row] for row in rows]
        file = tmp_path / f"train-0000{shard}-of-00002.parquet"
        write_parquet(file, column, [png(images[row]) for row in rows], labels, names)
    table = read_pictures(tmp_path)
    train = table.part("train")
    assert table.labels == names and train.targets.tolist() == [2, 0, 2, 1]
    for index, image in enumerate(images):
        assert np.array_equal(train.read(index).permute(1, 2, 0).numpy(), np.array(image))


@pytest.mark.parquet
@pytest.mark.parametrize(
    ("column", "contents", "labels", "names", "complaint"),
    [
        ("pixels", [b"x"], [0], ["a"], "has columns pixels, label"),
        ("img", [b"x"], [0], None, "names of its classes"),
        ("img", [b"x", None], [0, 0], ["a"], "row 1 holds no picture"),
        ("img", [b"x"], [1], ["a"], "outside the class names"),
        ("img", [b"x", b"x"], [0, None], ["a"], "outside the class names"),
        ("img", [], [], ["a"], "is empty"),
    ],
)
def test_other_parquet_files_are_refused(tmp_path, column, contents, labels, names, complaint) -> None:
    write_parquet(tmp_path / "train.parquet", column, contents, labels, names)
    with pytest.raises(PictureError, match=complaint):
        read_pictures(tmp_path)


@pytest.mark.parquet
def test_a_split_whose_labels_are_kept_back_does_not_hinder_the_others(tmp_path: Path) -> None:
    pictures: list[bytes | None] = [png(picture("red", 0)), png(picture("blue", 0))]
    hidden = tmp_path / "test-00000-of-00001-0123456789abcdef.parquet"  # named as the Hub named them earlier
    write_parquet(hidden, "img", pictures, [-1, -1], ["blue", "red"])
    with pytest.raises(PictureError, match="have no labels; give files that do"):
        read_pictures(tmp_path)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", "img", pictures, [1, 0], ["blue", "red"])
    table = read_pictures(tmp_path)
    assert table.part("train").targets.tolist() == [1, 0] and list(table.parts) == ["train"]
    with pytest.raises(PictureError, match="pictures of split 'test' have no labels"):
        table.part("test")


@pytest.mark.parquet
def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    write_parquet(file, "img", [png(picture("red", 0))] * 2, [0, 0], ["a"])
    content = file.read_bytes()
    file.write_bytes(content[:20] + bytes(30) + content[50:])  # the schema, which lies at the end, is whole
    with pytest.raises(PictureError, match=r"train\.parquet is damaged"):
        read_pictures(tmp_path)


def test_folders_that_would_be_dropped_are_refused(tmp_path: Path) -> None:
    for name in ("train/red", "train/blue", "validation/red", "validation/blue", "val/red", "val/blue"):
        (tmp_path / name).mkdir(parents=True)
        picture("red", 0).save(tmp_path / name / "0.png")
    with pytest.raises(PictureError, match="val and validation, which both mean the split val"):
        read_pictures(tmp_path)
    (tmp_path / "val").rename(tmp_path / "extra")
    with pytest.raises(PictureError, match="train, named like a part of the data, beside extra"):
        read_pictures(tmp_path)


def test_a_class_may_be_called_test_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("exam", "test", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        picture("red", 0).save(tmp_path / name / "0.png")
    table = read_pictures(tmp_path)
    assert table.labels == ["exam", "test"] and len(table.part("all")) == 2


def test_other_folders_are_refused(tmp_path: Path, coloured: Path) -> None:
    with pytest.raises(PictureError, match="There is no"):
        read_pictures(tmp_path / "absent")
    with pytest.raises(PictureError, match="no folders of pictures"):
        read_pictures(tmp_path)
    (tmp_path / "train").symlink_to(coloured / "train")
    (tmp_path / "test" / "purple").mkdir(parents=True)
    picture("red", 0).save(tmp_path / "test" / "purple" / "0.png")
    with pytest.raises(PictureError, match="other classes"):
        read_pictures(tmp_path)
    with pytest.raises(PictureError, match="no pictures in split 'valid'; known: test, train"):
        read_pictures(coloured).part("valid")


def test_a_picture_is_rgb_whatever_its_file_is_and_a_broken_one_is_named(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 4), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "grey.png", "grey").unique().tolist() == [77]
    assert read_picture(tmp_path / "clear.png", "clear")[:, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(PictureError, match="row 3 cannot be read as a picture"):
        read_picture(b"no picture", "row 3")


def test_a_picture_is_upright_as_its_camera_says(tmp_path: Path) -> None:
    stored = Image.fromarray(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6), "L")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise to see it so
    stored.save(tmp_path / "1.png", exif=turned)
    expected = np.rot90(np.array(stored), -1)
    assert np.array_equal(read_picture(tmp_path / "1.png", "phone")[0].numpy(), expected)
    assert np.array_equal(FrameFolder(tmp_path).read([0])[0, ..., 0], expected)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_become_the_upper_8_and_numbers_without_a_range_are_refused(
    tmp_path: Path, suffix: str
) -> None:
    grey = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    file = tmp_path / f"1.{suffix}"
    Image.fromarray(grey).save(file)
    assert np.array_equal(read_picture(file, "grey")[1].numpy(), grey >> 8)
    if suffix == "png":
        assert np.array_equal(FrameFolder(tmp_path).read([0])[0, ..., 2], grey >> 8)
        return
    for numbers in (grey.astype(np.float32) / 65535, grey.astype(np.int32)):
        Image.fromarray(numbers).save(file)
        with pytest.raises(PictureError, match="depth cannot be read as a picture: its pixels have no range"):
            read_picture(file, "depth")


@pytest.mark.parquet
@pytest.mark.data
def test_cifar10_is_read(shared_data: Path) -> None:
    table = read_pictures(shared_data / "cifar10" / "plain_text")
    assert table.labels[:3] == ["airplane", "automobile", "bird"] and table.labels[9] == "truck"
    assert np.bincount(table.part("train").targets).tolist() == [5000] * 10
    assert np.bincount(table.part("test").targets).tolist() == [1000] * 10
    assert table.part("test").read(0).shape == (3, 32, 32)
