"""The study: what it trains, that it goes on where it was, and what its summary says of outcomes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fibo_robot.attention.sparse.controls import density
from fibo_robot.attention.wythoff import head_offsets
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.study import runs
from fibo_robot.benchmarks.study.plan import STAGES, TUNING_SEED, VARIANTS, Run, find_stage, order, overrides
from fibo_robot.benchmarks.study.runs import Record, read_records, run_study
from fibo_robot.benchmarks.study.summary import summarise
from fibo_robot.cli.main import app
from fibo_robot.statistics import average_over_runs, difference_over_runs
from fibo_robot.training.config import compose_config
from tests.video.images.conftest import coloured

__all__ = ["coloured"]


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_variant_is_tuned_before_it_is_tested(stage) -> None:
    planned = order(stage, VARIANTS)
    assert len(planned) == len(VARIANTS) * (len(stage.learning_rates) + len(stage.seeds))
    assert len({run.folder for run in planned}) == len(planned)
    for number, run in enumerate(planned):
        before = [other for other in planned[:number] if other.variant == run.variant and other.tunes]
        assert run.tunes == (run.seed == TUNING_SEED)
        assert run.tunes or [other.learning_rate for other in before] == list(stage.learning_rates)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_variants_differ_in_their_attention_alone(variant) -> None:
    stage = STAGES["small"]
    config = compose_config(overrides(stage, Run(variant, 0, 1e-3)))
    dense = compose_config(overrides(stage, Run(VARIANTS[0], 0, 1e-3)))
    for other in (config, dense):
        del other.attention, other.trainer.castling_end, other.encoder.attention
    assert config == dense


def record(
    variant: str, seed: int, correct: list[bool] | None, rate: float = 1e-3, valid: float = 0.5
) -> Record:
    bits = None if correct is None else np.packbits(correct).tobytes().hex()
    accuracy = None if correct is None else float(np.mean(correct))
    count = None if correct is None else len(correct)
    about = (variant, "small", seed, rate, 0.1, 400, 1000, 1.5, valid)
    return Record(*about, accuracy, count, bits, None, 1.0, 0.5)


def test_summary_is_the_statistics_of_the_runs_that_were_tested() -> None:
    generator = np.random.default_rng(0)
    outcomes = {
        (variant, seed): (generator.random(101) < share).tolist()
        for variant, share in (("dense", 0.4), ("fibottention", 0.6), ("random", 0.6))
        for seed in range(3)
    }
    del outcomes["random", 2]
    records = [record(variant, seed, correct) for (variant, seed), correct in outcomes.items()]
    summary = summarise([*records, record("dense", TUNING_SEED, None)])
    mappings = {key: dict(enumerate(correct)) for key, correct in outcomes.items()}
    dense = [mappings["dense", seed] for seed in range(3)]
    paper = [mappings["fibottention", seed] for seed in range(3)]
    row = summary.accuracies[0]
    assert (row.variant, row.seeds) == ("dense", 3)
    assert (row.rate, row.low, row.high) == pytest.approx(
        (average_over_runs(dense).rate, *average_over_runs(dense).interval)
    )
    against = {(found.a, found.b): found for found in summary.differences}
    expected = difference_over_runs(paper, dense)
    found = against["fibottention", "dense"]
    assert (found.difference, found.p_value) == pytest.approx((expected.difference, expected.p_value))
    assert against["fibottention", "random"].seeds == 2  # the seeds that both have
    assert ("castling", "dense") not in against


def test_one_seed_has_no_interval() -> None:
    summary = summarise([record("dense", 0, [True, False]), record("fibottention", 0, [True, True])])
    assert summary.accuracies[0].low is None
    assert summary.differences[0].difference == 0.5 and summary.differences[0].p_value is None


def test_the_learning_rate_is_the_one_with_the_best_validation(tmp_path: Path) -> None:
    for rate, valid in ((1e-3, 0.4), (2e-3, 0.6), (4e-3, 0.6)):
        tuned = record("dense", TUNING_SEED, None, rate, valid)
        (tmp_path / "small" / f"{rate}").mkdir(parents=True)
        runs.write_json(tmp_path / "small" / f"{rate}" / runs.RECORD, tuned.__dict__)
    assert runs._best_rate(STAGES["small"], Run(VARIANTS[0], 0, None), tmp_path) == 2e-3


@pytest.mark.slow
def test_a_study_is_done_once_and_gone_on_with(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ("encoder.name=vit_micro", "encoder.image_size=16", "encoder.patch_size=4")
    stage = replace(
        STAGES["small"], name="tiny", train_pictures=48, epochs=1, steps=4, batch_size=12,
        learning_rates=(1e-3,), seeds=(0,), overrides=tiny,
    )  # fmt: skip
    monkeypatch.setitem(STAGES, "tiny", stage)
    some = [variant for variant in VARIANTS if variant.name in ("fibottention", "castling")]
    records = run_study(stage, some, coloured, tmp_path, jobs=2)
    assert [(r.variant, r.seed) for r in records if r.correct] == [("castling", 0), ("fibottention", 0)]
    tested = {r.variant: r for r in records if r.correct}
    assert len(tested["castling"].outcomes()) == 12
    assert np.mean(list(tested["castling"].outcomes().values())) == tested["castling"].test_accuracy
    assert tested["castling"].mass is not None and tested["castling"].density is None
    assert tested["fibottention"].density == pytest.approx(density(head_offsets(16, 4), 16))

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "train", never)
    assert run_study(stage, some, coloured, tmp_path) == records
    shutil.rmtree(tmp_path / "tiny" / "castling-seed0")
    with pytest.raises(AssertionError, match="trained again"):
        run_study(stage, some, coloured, tmp_path)
    json_file = tmp_path / "study.json"
    options = ["bench", "study", "--stage", "tiny", "--output", tmp_path, "--json", json_file]
    done = CliRunner().invoke(app, [str(option) for option in options])
    assert done.exit_code == 0 and "3 runs finished; 1 of them tested" in done.output
    assert len(json.loads(json_file.read_text())["rows"]) == len(read_records(tmp_path / "tiny")) == 3


def test_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(BenchmarkError, match="Did you mean 'small'"):
        find_stage("smal")
