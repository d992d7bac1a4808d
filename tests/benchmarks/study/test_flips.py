"""Pictures that flip: in every seed, the lowest numbers, and with maps of the models that flipped them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fibo_robot.attention.maps import attention_weights
from fibo_robot.attention.modules import AttentionModule
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.study import flips
from fibo_robot.benchmarks.study.flips import SHOWN, find_flips
from fibo_robot.benchmarks.study.plan import STAGES, VARIANTS, Run, overrides
from fibo_robot.benchmarks.study.runs import RECORD, Record
from fibo_robot.cli.main import app
from fibo_robot.training.config import compose_config
from fibo_robot.training.run import train
from fibo_robot.video.images.evaluation import evaluate_pictures
from fibo_robot.video.images.predict import load_image_classifier
from fibo_robot.video.images.table import read_pictures
from tests.video.images.conftest import coloured

__all__ = ["coloured"]


def record(variant: str, seed: int, correct: np.ndarray) -> Record:
    bits = np.packbits(correct).tobytes().hex()
    about = (variant, "small", seed, 1e-3, 0.1, 1, 48, 1.0, 0.5)
    return Record(*about, float(correct.mean()), len(correct), bits, None, 1.0, 0.5)


def test_a_picture_flips_where_all_seeds_agree() -> None:
    dense = [[1, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 0]]
    fibottention = [[0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0]]
    records = [record("dense", seed, np.array(row, bool)) for seed, row in enumerate(dense)]
    records += [record("fibottention", seed, np.array(row, bool)) for seed, row in enumerate(fibottention)]
    records.append(record("fibottention", 7, np.ones(6, bool)))  # dense has no such seed
    first, second = find_flips(records, "dense", "fibottention")
    assert (first.right, first.wrong, first.seeds, first.pictures) == (
        "dense", "fibottention", (0, 1), (0, 3),
    )  # fmt: skip
    assert (second.right, second.pictures) == ("fibottention", (2,))


def test_variants_that_cannot_be_compared_are_refused() -> None:
    records = [record("dense", 0, np.ones(6, bool)), record("castling", 1, np.zeros(6, bool))]
    with pytest.raises(BenchmarkError, match="Did you mean 'fibottention'"):
        find_flips(records, "dense", "fibotention")
    with pytest.raises(BenchmarkError, match="tested run of the same seed"):
        find_flips(records, "dense", "castling")


@pytest.fixture(scope="module")
def tested_runs(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run each of two variants, of which the dense one has learnt nothing."""
    stage, folder = STAGES["small"], tmp_path_factory.mktemp("runs")
    tiny = [
        *("encoder.name=vit_micro", "encoder.image_size=16", "encoder.patch_size=4"),
        *("data.train_pictures=48", "data.batch_size=12", "data.steps_per_epoch=8"),
        *("trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "optimizer.warmup_steps=0"),
    ]
    for variant, rate in ((VARIANTS[0], 1e-9), (VARIANTS[1], 1e-3)):
        run = Run(variant, 0, rate)
        place = folder / "small" / run.folder
        given = [*overrides(stage, run), *tiny, f"data.root={coloured}", f"run_dir={place}"]
        train(compose_config(given))
        correct = evaluate_pictures(
            load_image_classifier(place), read_pictures(coloured).part("test")
        ).correct
        (place / RECORD).write_text(json.dumps(asdict(record(variant.name, 0, correct))))
    return folder


@pytest.mark.slow
def test_the_sheet_shows_the_pictures_that_flipped(tested_runs: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "flips.png"
    options = ["--output", tested_runs, "--flips", "dense", "fibottention", "--sheet", sheet]
    done = CliRunner().invoke(app, ["bench", "study", *(str(option) for option in options)])
    assert done.exit_code == 0, done.output
    first, second = find_flips(flips.read_records(tested_runs / "small"), "dense", "fibottention")
    assert first.pictures or second.pictures
    for found in (first, second):
        line = (
            f"{found.right} right and {found.wrong} wrong with every seed (0): {len(found.pictures)} pictures"
        )
        assert line in done.output
    assert np.array(Image.open(sheet)).std() > 10


@pytest.mark.slow
def test_outcomes_that_the_models_do_not_confirm_are_refused(tested_runs: Path, tmp_path: Path) -> None:
    claimed = {"dense": np.ones(12, bool), "fibottention": np.zeros(12, bool)}
    for variant, correct in claimed.items():
        place = tmp_path / f"{variant}-seed0"
        shutil.copytree(tested_runs / "small" / place.name, place)
        (place / RECORD).write_text(json.dumps(asdict(record(variant, 0, correct))))
    sheet = tmp_path / "flips.png"
    with pytest.raises(BenchmarkError, match="do not answer as the runs have recorded"):
        flips.write_sheet(tmp_path, "dense", "fibottention", sheet)
    assert not sheet.exists()


@pytest.mark.slow
def test_the_map_is_what_the_last_layer_gives_each_patch(tested_runs: Path, coloured: Path) -> None:
    classifier = load_image_classifier(next((tested_runs / "small").glob("fibottention*")))
    images = torch.randint(256, (SHOWN, 3, 16, 16), dtype=torch.uint8)
    modules = classifier.encoder.vit.modules()
    core = [module.core for module in modules if isinstance(module, AttentionModule)][-1]
    inputs = []
    handle = core.register_forward_pre_hook(lambda module, given: inputs.append(given))
    scores, received = flips._scores_and_received(classifier, images)
    handle.remove()
    torch.testing.assert_close(scores, classifier(images))
    weights = attention_weights(core, *inputs[0][:2])[:, :, 1:, 1:]  # without the class token
    torch.testing.assert_close(received.flatten(1), weights.sum(2).mean(1))
