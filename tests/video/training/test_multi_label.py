"""Several labels to a clip: the loss, batches, and from a table to probabilities and the command's words."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torchmetrics.functional.classification import multilabel_average_precision

from fibo_robot.errors import FiboError
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.video import load_classifier, predict
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.training.augmentation import BatchAugmentation
from fibo_robot.video.training.clips import ClipDataset
from fibo_robot.video.training.loader import ClipLoader
from fibo_robot.video.training.objectives import ManyLabels
from fibo_robot.video.training.sampling import ClipSampling, Cropping
from tests.video.clips import write_video
from tests.video.command_line import run


def picture_of(generator: np.random.Generator, red: bool, late: bool) -> np.ndarray:
    """`(12, 32, 32, 3)` uint8: a square, red or grey, that is there from the beginning or from the middle."""
    row, column = generator.integers(2, 16, 2)
    frames = np.full((12, 32, 32, 3), 30, np.uint8)
    frames[6 if late else 0 :, row : row + 14, column : column + 14] = (
        (220, 40, 40) if red else (150, 150, 150)
    )
    return frames


@pytest.fixture(scope="module")
def two_attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 clips, red or not and late or not in all four ways; half of them for testing."""
    folder = tmp_path_factory.mktemp("attributes")
    generator = np.random.default_rng(0)
    with (folder / "clips.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "labels", "split"])
        for number in range(32):
            red, late = bool(number & 1), bool(number & 2)
            write_video(folder / f"{number}.mp4", picture_of(generator, red, late))
            labels = ";".join(name for name, there in (("red", red), ("late", late)) if there)
            writer.writerow([f"{number}.mp4", labels, "test" if number < 16 else "train"])
    return folder


@pytest.fixture(scope="module")
def trained(two_attributes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_from_overrides(
        [
            "experiment=video_skills",
            "attention=softmax",  # nothing to compile
            "encoder.image_size=32",
            "encoder.patch_size=16",
            "encoder.frames=4",
            "encoder.tubelet=4",
            "optimizer.warmup_steps=10",
            "trainer.max_epochs=2",
            "trainer.check_val_every_n_epoch=2",
            "trainer.checkpoint_every_n_epochs=2",
            "data.cache_side=32",
            "data.steps_per_epoch=30",
            "data.multi_label=true",
            f"data.root={two_attributes}",
            f"run_dir={tmp_path_factory.mktemp('trained') / 'run'}",
        ]
    )


def test_two_independent_attributes_are_learnt(trained: Path, two_attributes: Path) -> None:
    last = json.loads((trained / "history.json").read_text())[-1]
    assert last["valid/mean_average_precision"] > 0.95 and "valid/accuracy" not in last
    of_class = json.loads((trained / "validation" / "per_class.json").read_text())["classes"]
    assert {name: row["videos"] for name, row in of_class.items()} == {"late": 8, "red": 8}

    classifier = load_classifier(trained)
    assert classifier.multi_label and classifier.labels == ["late", "red"]
    clips = read_clips(two_attributes, multi_label=True).part("test")
    found = list(predict(classifier, [clip.path for clip in clips], threshold=0.5))
    right = sum({score.label for score in one.scores} == set(clip.labels) for one, clip in zip(found, clips))
    assert right >= 14  # all four combinations among them, with neither label, too


def test_video_test_averages_sigmoids_of_views(trained: Path, two_attributes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ("--data", two_attributes, "--views", 2, "--workers", 0, "--output", output)
    status, out, _ = run("video-test", trained, *arguments)
    assert status == 0 and "16 videos (split test)" in out and "mean average precision" in out
    saved = load_file(output / "scores.safetensors")
    probabilities = (1 / (1 + np.exp(-saved["scores"].astype(np.float64)))).mean(1)
    expected = multilabel_average_precision(
        torch.from_numpy(probabilities), torch.from_numpy(saved["targets"]).long(), 2, average=None
    )
    result = json.loads((output / "test.json").read_text())
    found = [result["per_class"][name]["average_precision"] for name in ("late", "red")]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    rate = result["mean_average_precision"]
    assert rate["value"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    assert not (output / "confusion.png").exists()


def test_data_of_one_label_each_cannot_test_it(trained: Path, motion_clips: Path) -> None:
    with pytest.raises(FiboError, match="needs columns path and labels"):
        run("video-test", trained, "--data", motion_clips)


def test_classify_names_the_labels_above_a_threshold(
    trained: Path, two_attributes: Path, tmp_path: Path
) -> None:
    clips = [two_attributes / f"{number}.mp4" for number in (0, 3)]
    run("classify", trained, *clips, "--json", tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [len(row["predictions"]) for row in rows] == [2, 2]
    sums = [sum(score["probability"] for score in row["predictions"]) for row in rows]
    assert sums[0] < 0.9 and sums[1] > 1.1  # neither, and both: no distribution over classes
    files = ("--json", tmp_path / "some.jsonl", "--csv", tmp_path / "some.csv")
    status, out, _ = run("classify", trained, *clips, "--threshold", 0.5, *files)
    rows = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert status == 0 and "none" in out
    named = [{score["label"] for score in row["predictions"]} for row in rows]
    assert named == [set(), {"red", "late"}]
    table = list(csv.DictReader((tmp_path / "some.csv").open()))
    assert [row["label"] for row in table if row["path"] == str(clips[0])] == [""]
    with pytest.raises(FiboError, match="--threshold is for files as wholes"):
        run("classify", trained, *clips, "--threshold", 0.5, "--window", 0.2)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_have_a_one_for_each_label(two_attributes: Path, workers: int) -> None:
    table = read_clips(two_attributes, multi_label=True)
    data = ClipDataset(table.clips, table.labels, ClipSampling(frames=2), Cropping(), 16, multi_label=True)
    assert data.targets[:4] == [(), (1,), (0,), (1, 0)]
    clip, target = data[3]
    assert clip.shape == (2, 3, 16, 16) and torch.equal(torch.as_tensor(target), torch.tensor([1.0, 1.0]))
    (batch,) = ClipLoader(data, [[(n, 0) for n in range(4)]], batch_size=4, num_workers=workers)
    assert batch["labels"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert batch["labels"].dtype == torch.float32


@pytest.mark.parametrize("mix", ["mixup_alpha", "cutmix_alpha"])
def test_mixed_clips_have_the_labels_of_both_in_their_shares(mix: str) -> None:
    # Black clips have label 0, white ones 1, and all have label 2: the mean brightness is the share of white.
    clips = torch.zeros(4, 2, 3, 8, 8, dtype=torch.uint8)
    clips[2:] = 255
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]])
    torch.manual_seed(1)
    options: dict[str, Any] = {mix: 1.0}
    mixed, targets = BatchAugmentation(**options)(clips, labels, 3)
    share = mixed.mean((1, 2, 3, 4))
    assert 0.01 < share[2] < 0.99
    torch.testing.assert_close(targets, torch.stack([1 - share, share, torch.ones(4)], 1))


def test_smoothing_moves_each_label_towards_one_half() -> None:
    clips = torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)
    _, targets = BatchAugmentation(label_smoothing=0.1)(clips, torch.tensor([[1.0, 0, 0]]), 3)
    torch.testing.assert_close(targets, torch.tensor([[0.95, 0.05, 0.05]]))


def test_the_loss_is_the_cross_entropy_of_each_label() -> None:
    scores = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    targets = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    p = 1 / (1 + torch.exp(-scores))
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log())
    objective = ManyLabels(["a", "b"])
    torch.testing.assert_close(objective.loss(scores, targets), expected.mean())
    torch.testing.assert_close(objective.loss(scores, targets, reduction="none"), expected.mean(1))


def test_classes_without_positives_are_in_no_mean_and_the_next_validation_begins_anew(tmp_path: Path) -> None:
    objective = ManyLabels(["a", "never", "c"])
    objective.update(torch.tensor([[3.0, 9.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    objective.update(torch.tensor([[1.0, 9.0, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert objective.finish() == {"mean_average_precision": torch.tensor(1.0)}
    table, picture = objective.show(tmp_path, epoch=1)
    assert picture is None and "never" not in table
    rows = json.loads((tmp_path / "per_class.json").read_text())["classes"]
    assert rows["never"] == {"videos": 0, "average_precision": None}
    objective.update(
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0, 0], [0.0, 0, 0]])
    )
    assert objective.finish()["mean_average_precision"] == 0.5
    objective.update(torch.zeros(2, 3), torch.zeros(2, 3))
    assert objective.finish() == {}  # nothing to find, and no number that JSON does not know
    objective.update(torch.full((2, 3), torch.nan), torch.ones(2, 3))
    assert objective.finish() == {}  # a diverged model ranks nothing
    assert objective.finish() == {}  # not one clip could be read
