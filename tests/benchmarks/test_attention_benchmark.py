"""The measuring is right: rounds are paired, memory is counted, rows hold what the JSON form promises."""

import json
import time

import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.benchmarks.attention import attention_share, measure, plot
from fibo_robot.benchmarks.harness import BenchmarkError, interleave, peak_memory_mb, speedup
from fibo_robot.cli.main import app


def test_cases_run_interleaved_and_warmup_is_not_counted():
    order = []
    seconds = interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1
    )
    assert order == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_times_are_seconds():
    seconds = interleave({"sleep": lambda: time.sleep(0.02)}, repeats=1)
    assert 0.02 <= seconds["sleep"][0] < 2


def test_speedup_compares_within_each_round():
    # The machine slows down tenfold in the second round; the ratio does not.
    assert speedup([1.0, 10.0, 1.0], [0.5, 5.0, 0.5]) == (2.0, (2.0, 2.0))


@pytest.mark.skipif(not torch.cuda.is_available() and peak_memory_mb(list) is None, reason="no peak here")
@pytest.mark.parametrize("freed_before", [0, 2000])
def test_peak_memory_sees_a_temporary_tensor(freed_before):
    # The allocator keeps many small blocks when they are freed, and could serve the tensor from them.
    blocks = [torch.ones(2**14) for _ in range(freed_before)]
    last = torch.ones(2**14)
    del blocks
    assert last.numel() == 2**14
    assert 60 < peak_memory_mb(lambda: torch.ones(64, 2**18).sum()) < 100


def test_attention_share_of_vit_b():
    published = {196: 0.04, 1568: 0.25, 3136: 0.41, 8192: 0.64}
    assert {tokens: attention_share(tokens) for tokens in published} == pytest.approx(published, abs=0.006)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr("fibo_robot.benchmarks.attention.SECONDS_PER_CASE", 0.0)


@pytest.mark.usefixtures("_quick")
def test_command_writes_rows_with_the_machine_and_a_plot(tmp_path):
    results, picture = tmp_path / "attention.json", tmp_path / "attention.png"
    arguments = ["bench", "attention", "--tokens", "65,197", "--json", str(results), "--plot", str(picture)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    written = json.loads(results.read_text())
    assert written["machine"]["cores"] >= 1
    rows = written["rows"]
    promised = {"op", "tokens", "direction", "dtype", "device", "speedup_vs_sdpa", "spread", "peak_memory_mb"}
    assert all(promised <= set(row) for row in rows)
    assert {(row["op"], row["tokens"], row["direction"]) for row in rows} == {
        (op, tokens, direction)
        for op in ("sdpa", "fibottention", "castling")
        for tokens in (65, 197)
        for direction in ("forward", "forward_backward")
    }
    assert all(row["speedup_vs_sdpa"] == 1 for row in rows if row["op"] == "sdpa")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_quick")
def test_keys_per_query_count_the_pairs_that_are_computed():
    row = next(row for row in measure([197], ["forward"]) if row.op == "fibottention")
    assert row.keys_per_query == pytest.approx((9192 / 12 + 2 * 197 - 1) / 197)
    assert len(plot([row]).axes[0].lines) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tokens": [1]}, "tokens"),
        ({"dtype": "float8"}, "dtype"),
        pytest.param(
            {"device": "cuda"},
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(BenchmarkError, match=named):
        list(measure(**{"tokens": [65], **arguments}))


@pytest.mark.usefixtures("_quick")
def test_any_registered_attention_can_be_timed_and_rows_measured_are_kept(tmp_path, monkeypatch):
    results = tmp_path / "attention.json"
    arguments = [
        "bench",
        "attention",
        "--tokens",
        "65,1",
        "--ops",
        "xcit",
        "--forward-only",
        "--json",
        str(results),
    ]
    assert CliRunner().invoke(app, arguments).exit_code != 0  # before anything is measured
    assert not results.exists()
    monkeypatch.setattr("fibo_robot.benchmarks.attention.token_grid", {65: (1, 8, 8)}.__getitem__)
    arguments[3] = "65,197"
    assert isinstance(CliRunner().invoke(app, arguments).exception, KeyError)
    assert [row["op"] for row in json.loads(results.read_text())["rows"]] == ["sdpa", "xcit"]


def test_masks_command_draws_two_pictures(tmp_path):
    outcome = CliRunner().invoke(app, ["bench", "masks", "--output", str(tmp_path), "--patches", "7"])
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in tmp_path.iterdir()} == {"masks.png", "receptive_field.png"}
