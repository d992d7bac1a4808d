"""An image classifier from a folder of pictures to its answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fibo_robot.cli.classify.pictures import find_pictures
from fibo_robot.errors import FiboError
from fibo_robot.hub.card import make_card
from fibo_robot.statistics import wilson_interval
from fibo_robot.training.checkpoint import CheckpointError, load_checkpoint
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.video import load_classifier
from fibo_robot.video.images.evaluation import evaluate_pictures
from fibo_robot.video.images.predict import classify_pictures, load_image_classifier
from fibo_robot.video.images.table import read_pictures
from fibo_robot.video.training.augmentation import BatchAugmentation
from tests.video.command_line import run
from tests.video.images.conftest import picture

TINY = [
    "experiment=cifar10",
    "encoder.name=vit_micro",
    "encoder.image_size=16",
    "data.batch_size=12",
    "data.steps_per_epoch=8",
    "data.valid_share=0.2",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "optimizer.warmup_steps=2",
    "logger=none",
]


@pytest.fixture(scope="module")
def trained(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "colours"
    return train_from_overrides([*TINY, f"data.root={coloured}", f"run_dir={folder}"])


def test_it_learns_colours_and_records_what_it_saw(trained: Path, coloured: Path) -> None:
    assert json.loads((trained / "history.json").read_text())[-1]["valid/accuracy"] >= 0.9
    meta = json.loads((trained / "meta.json").read_text())
    assert meta["kind"] == "image_classifier" and meta["labels"] == ["blue", "green", "red"]
    assert (meta["dataset"]["train_pictures"], meta["dataset"]["valid_pictures"]) == (48, 12)
    result = evaluate_pictures(load_image_classifier(trained), read_pictures(coloured).part("test"))
    rate, hits = result.top(1), int(result.correct.sum())
    assert hits >= 11 and rate.value == hits / 12
    assert (rate.low, rate.high) == pytest.approx(wilson_interval(hits, 12))
    assert result.top(3).value == 1


def test_classify_answers_for_pictures_and_folders_and_names_broken_ones(
    trained: Path, coloured: Path, tmp_path: Path
) -> None:
    status, out, _ = run("classify", trained, coloured / "test" / "red" / "00.png", "--top-k", 1)
    assert status == 0 and "red" in out
    picture("green", 5, (64, 40)).save(tmp_path / "large.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    status, _, errors = run("classify", trained, tmp_path, "--json", tmp_path / "out.jsonl")
    rows = {
        Path(r["path"]).name: r for r in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert status == 3 and set(rows) == {"large.jpg", "broken.jpg"}
    assert rows["large.jpg"]["predictions"][0]["label"] == "green"
    assert sum(p["probability"] for p in rows["large.jpg"]["predictions"]) == pytest.approx(1)
    assert "broken.jpg cannot be read as a picture" in errors


def test_what_only_videos_have_is_refused(trained: Path, coloured: Path) -> None:
    with pytest.raises(FiboError, match="classifies pictures"):
        run("classify", trained, coloured, "--window", 1)
    with pytest.raises(FiboError, match="No picture found"):
        run("classify", trained, coloured / "absent*")
    with pytest.raises(CheckpointError, match="holds a image_classifier, not a classifier"):
        load_classifier(trained)


def test_image_test_writes_every_answer(trained: Path, coloured: Path, tmp_path: Path) -> None:
    status, out, _ = run("image-test", trained, "--data", coloured, "--output", tmp_path / "test")
    assert status == 0 and "12 pictures (split test)" in out and "top-1: " in out
    rows = json.loads((tmp_path / "test" / "pictures.json").read_text())
    right = sum(row["label"] == row["predicted"] for row in rows) / 12
    assert json.loads((tmp_path / "test" / "test.json").read_text())["top1"]["value"] == right
    with pytest.raises(FiboError, match="the same, in the same order"):
        (tmp_path / "other" / "mauve").mkdir(parents=True)
        picture("red", 0).save(tmp_path / "other" / "mauve" / "0.png")
        run("image-test", trained, "--data", tmp_path / "other")


def test_what_a_diverged_classifier_says_is_no_result(trained: Path, coloured: Path) -> None:
    classifier = load_image_classifier(trained)
    torch.nn.init.constant_(classifier.head.weight, torch.nan)
    with pytest.raises(FiboError, match="no finite numbers"):
        evaluate_pictures(classifier, read_pictures(coloured).part("test"))
    with pytest.raises(FiboError, match="no finite numbers"):
        next(classify_pictures(classifier, [coloured / "test" / "red" / "00.png"]))


def test_its_card_says_that_it_takes_pictures_and_how_well(
    trained: Path, coloured: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    run("image-test", run_dir, "--data", coloured)
    card = make_card(load_checkpoint(run_dir), "owner/colours")
    assert (
        "pipeline_tag: image-classification" in card.text and "An image classifier of 3 classes" in card.text
    )
    assert "import load_image_classifier" in card.text and "| top-1 accuracy |" in card.text
    assert "| 12 pictures |" in card.text and not card.left_out


def test_results_of_a_model_on_the_hub_do_not_go_into_a_folder_of_its_address(
    trained: Path, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fibo_robot.training.checkpoint.local_folder", lambda source: trained)
    run("image-test", "hf:owner/colours", "--data", coloured)
    assert [path.as_posix() for path in tmp_path.rglob("test.json")] == [
        (tmp_path / "runs/colours/test/test.json").as_posix()
    ]


def test_folders_of_pictures_are_gone_through_as_training_does(coloured: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(coloured / "test" / "red")
    (tmp_path / ".thumbnails").mkdir()
    picture("red", 0).save(tmp_path / ".thumbnails" / "0.png")
    assert find_pictures([str(tmp_path)]) == [tmp_path / "linked" / f"{n:02d}.png" for n in range(4)]


@pytest.mark.parametrize("mix", ["mixup_alpha", "cutmix_alpha"])
def test_augmentation_mixes_images_and_their_targets(mix: str) -> None:
    images = torch.stack([torch.full((3, 8, 8), 0), torch.full((3, 8, 8), 255)]).to(torch.uint8)
    torch.manual_seed(1)
    options: dict[str, Any] = {mix: 1.0}
    mixed, targets = BatchAugmentation(**options)(images, torch.tensor([0, 1]), 2)
    assert mixed.shape == (2, 3, 8, 8) and targets.sum(1).tolist() == pytest.approx([1, 1])
    # White stands for class 1, so a picture's mean is its share of that class.
    assert mixed.mean((1, 2, 3)).tolist() == pytest.approx(targets[:, 1].tolist(), abs=1e-5)
    assert 0 < targets[0, 1] < 1
