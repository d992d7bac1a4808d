"""The measuring is right: rounds are paired, memory is counted, rows hold what the JSON form promises."""

import json
import time

import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.attention.castling.branch import strongest_softmax
from fibo_robot.benchmarks.attention.limits import (
    PRODUCT,
    PRODUCT_SIDE,
    STREAM,
    floor_seconds,
    limit_cases,
    multiply_adds,
)
from fibo_robot.benchmarks.attention.sweep import attention_share, measure, plot
from fibo_robot.benchmarks.harness import BenchmarkError, interleave, peak_memory_mb, speedup
from fibo_robot.cli.main import app


def test_each_round_runs_every_case_in_an_order_of_its_own_and_warmup_is_not_counted():
    order = []
    seconds = interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=20, warmup=1
    )
    rounds = ["".join(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert len(rounds) == 21 and set(rounds) == {"ab", "ba"}
    assert {name: len(times) for name, times in seconds.items()} == {"a": 20, "b": 20}


def test_short_cases_are_called_until_their_round_is_long_enough():
    calls = []
    seconds = interleave({"short": lambda: (calls.append(1), time.sleep(0.005))}, 2, least_seconds=0.05)
    assert 2 * 5 <= len(calls) <= 2 * 10 + 2  # a sleep lasts a little longer, and warming up takes two calls
    assert all(0.005 <= second < 0.02 for second in seconds["short"])  # per call


def test_times_are_seconds():
    seconds = interleave({"sleep": lambda: time.sleep(0.02)}, repeats=1)
    assert 0.02 <= seconds["sleep"][0] < 2


def test_speedup_compares_within_each_round():
    # The machine slows down tenfold in the second round; the ratio does not.
    assert speedup([1.0, 10.0, 1.0], [0.5, 5.0, 0.5]) == (2.0, (2.0, 2.0))


@pytest.mark.skipif(peak_memory_mb(list) is None, reason="no peak here")
@pytest.mark.parametrize("freed_before", [0, 2000])
def test_peak_memory_sees_a_temporary_tensor(freed_before):
    # The allocator keeps many small blocks when they are freed, and could serve the tensor from them.
    blocks = [torch.ones(2**14) for _ in range(freed_before)]
    last = torch.ones(2**14)
    del blocks
    assert last.numel() == 2**14
    peak = peak_memory_mb(lambda: torch.ones(64, 2**18).sum())
    assert peak is not None and 60 < peak < 100


def test_the_floor_is_the_longer_of_streaming_and_multiplying():
    work = multiply_adds("forward", tokens=10, heads=2, head_dim=4, batch=3, pairs=5.0, linear=False)
    assert work == 3 * 2 * 10 * 5 * 2 * 4  # every query of every head, its keys, q·k and p·v, over channels
    both = multiply_adds("forward_backward", 10, 2, 4, 3, pairs=10.0, linear=True)
    assert both == 3 * 2 * 10 * 4 * (7 * 10 + 6 * 4)
    one_product = {STREAM: [1.0, 3.0, 2.0], PRODUCT: [4.0]}
    products = PRODUCT_SIDE["cpu"] ** 3
    assert floor_seconds("forward", products / 4, one_product, "cpu") == 2.0
    assert floor_seconds("forward_backward", products / 4, one_product, "cpu") == 3 * 2.0
    assert floor_seconds("forward", products * 2, one_product, "cpu") == 8.0


def test_what_is_streamed_is_q_k_v_and_an_output():
    stream = limit_cases(50, 2, 8, 3, "cpu", torch.float32)[STREAM]
    out = stream()
    assert isinstance(out, torch.Tensor)
    assert out.shape == (3, 50, 2, 8) and (out == 2).all()


def test_attention_share_of_vit_b():
    published = {196: 0.04, 1568: 0.25, 3136: 0.41, 8192: 0.64}
    assert {tokens: attention_share(tokens) for tokens in published} == pytest.approx(published, abs=0.006)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr("fibo_robot.benchmarks.attention.sweep.SECONDS_PER_CASE", 0.0)
    monkeypatch.setattr("fibo_robot.benchmarks.attention.sweep.SECONDS_PER_ROUND", {"cpu": 0.0})


@pytest.mark.usefixtures("_quick")
def test_command_writes_rows_with_the_machine_and_a_plot(tmp_path):
    results, picture = tmp_path / "attention.json", tmp_path / "attention.png"
    arguments = ["bench", "attention", "--tokens", "17,65", "--batch", "2"]
    arguments += ["--json", str(results), "--plot", str(picture)]
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
        for tokens in (17, 65)
        for direction in ("forward", "forward_backward")
    } | {("castling_with_branch", tokens, "forward_backward") for tokens in (17, 65)}
    assert all(row["batch"] == 2 and row["module_speedup"] > 0 for row in rows)
    assert all(row["module_speedup"] == 1 for row in rows if row["op"] == "sdpa")
    assert all(row["speedup_vs_sdpa"] == 1 for row in rows if row["op"] == "sdpa")
    assert all(row["floor_milliseconds"] > 0 for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_quick")
def test_attention_is_timed_on_the_views_that_a_module_passes(monkeypatch):
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **options):
        seen.append((q.stride(), k.data_ptr() - q.data_ptr(), v.data_ptr() - q.data_ptr(), q.requires_grad))
        return real(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr("fibo_robot.benchmarks.attention.cases.F.scaled_dot_product_attention", spy)
    list(measure([50], ["forward_backward"], ops=[]))
    # (B, heads, N, head_dim) within (B, N, 3, heads, head_dim), as after the projection to q, k and v.
    assert {stride for stride, *_ in seen} == {(50 * 3 * 768, 64, 3 * 768, 1)}
    assert {(k, v) for _, k, v, _ in seen} == {(768 * 4, 2 * 768 * 4)}
    assert all(wants_gradient for *_, wants_gradient in seen)


@pytest.mark.usefixtures("_quick")
def test_castlings_branch_is_timed_where_training_is(monkeypatch):
    calls = []

    def spy(*arguments, **options):
        calls.append(options["threshold"])
        return strongest_softmax(*arguments, **options)

    monkeypatch.setattr("fibo_robot.attention.cores.strongest_softmax", spy)
    rows = list(measure([65], ["forward"], ops=["castling"]))
    assert [row.op for row in rows] == ["sdpa", "castling"] and not calls
    rows = list(measure([65], ["forward_backward"], ops=["castling"]))
    assert [row.op for row in rows] == ["sdpa", "castling", "castling_with_branch"] and calls


@pytest.mark.usefixtures("_quick")
def test_rows_can_go_to_standard_output_alone():
    arguments = ["bench", "attention", "--tokens", "65", "--ops", "fibottention", "--json", "-"]
    outcome = CliRunner().invoke(app, [*arguments, "--forward-only"])
    assert [row["op"] for row in json.loads(outcome.stdout)["rows"]] == ["sdpa", "fibottention"]


@pytest.mark.parametrize("option", ["--device", "--dtype"])
def test_fixed_choices_are_listed(option):
    outcome = CliRunner().invoke(app, ["bench", "attention", option, "tpu"])
    assert (
        outcome.exit_code == 2 and {"--device": "'cuda'", "--dtype": "'bfloat16'"}[option] in outcome.output
    )


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
    monkeypatch.setattr("fibo_robot.benchmarks.attention.cases.token_grid", {65: (1, 8, 8)}.__getitem__)
    arguments[3] = "65,197"
    assert isinstance(CliRunner().invoke(app, arguments).exception, KeyError)
    assert [row["op"] for row in json.loads(results.read_text())["rows"]] == ["sdpa", "xcit"]


def test_attention_show_draws_two_pictures(tmp_path):
    outcome = CliRunner().invoke(app, ["attention", "show", "--output", str(tmp_path), "--patches", "7"])
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in tmp_path.iterdir()} == {"masks.png", "receptive_field.png"}
