"""`fibo bench gpu`: the same program on the CPU, with Triton's interpreter in the place of a GPU."""

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.attention.wythoff import head_offsets
from fibo_robot.benchmarks.attention.cases import flex_attention
from fibo_robot.benchmarks.gpu import simulator, training
from fibo_robot.benchmarks.gpu.__main__ import main
from fibo_robot.benchmarks.gpu.correctness import Case
from fibo_robot.benchmarks.gpu.plan import Part, PartResult, _Ledger
from fibo_robot.benchmarks.gpu.simulator import SimulatorCase
from fibo_robot.benchmarks.gpu.speed import compare, usable
from fibo_robot.benchmarks.gpu.summary import lines, verdict
from fibo_robot.benchmarks.gpu.training import TrainingCase
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.simulation import worlds
from fibo_robot.cli.main import app
from fibo_robot.envs.rendering.settings import RendererError
from tests.envs.rollouts.batched.toy_worlds import maker
from tests.envs.toy_task import ToyTask

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.triton
def test_every_part_is_measured_with_torch_triton_timm_and_numba_alone(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu.interpreted", str(tmp_path)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["verdict"] == 0, told["lines"]
    more = {"lightning", "hydra", "typer", "rich", "torchmetrics", "gymnasium", "robosuite", "matplotlib"}
    assert {"torch", "triton", "timm", "numba"} <= set(told["packages"]) and more.isdisjoint(told["packages"])
    parts = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(parts) == {"correctness", "attention", "modules", "training", "simulator"}
    assert all(part["machine"]["torch"] == torch.__version__ for part in parts.values())
    of_nothing = hashlib.sha256().hexdigest()[:16]  # results of other kernels are not gone on with
    assert all(part["settings"]["kernels"] != of_nothing for part in parts.values())
    checks = parts["correctness"]["rows"]
    assert [row["kernel"] for row in checks] == ["diagonal", "angular", "branch", "compiled"]  # in turns
    assert all(row["passed"] and max(row["errors"].values()) < row["tolerance"] for row in checks)
    for part in ("attention", "modules"):
        rows = [row for row in parts[part]["rows"] if "op" in row]
        assert {row["direction"] for row in rows} == {"forward", "forward_backward"}
        for direction in ("forward", "forward_backward"):
            ops = {row["op"]: row for row in rows if row["direction"] == direction}
            assert {"fibottention", "castling", "sdpa", "sdpa_flash"} <= set(ops)
            assert ("castling_with_branch" in ops) == (direction == "forward_backward")
            best = ops[ops["fibottention"]["best_dense"]]
            assert best["speedup_vs_best_dense"] == 1 and best["milliseconds"] > 0
            assert ops["fibottention"]["keys_per_query"] < ops["sdpa_flash"]["keys_per_query"] == 14
        left_out = {name for row in parts[part]["rows"] for name in row.get("left_out", ())}
        assert "sdpa_cudnn" in left_out  # there is none on a CPU
    steps = {row["op"]: row for row in parts["training"]["rows"]}
    assert set(steps) == {
        "dense", "fibottention", "fibottention_numba", "castling", "castling_with_branch",
    }  # fmt: skip
    assert all(row["examples_per_s"] > 0 and row["tokens"] == 5 for row in steps.values())
    assert "left_out_part" in parts["simulator"]["rows"][0]


def test_a_case_that_waited_or_failed_is_measured_by_the_next_run(tmp_path: Path) -> None:
    path, calls, works = tmp_path / "part.json", [], False

    def case(name: str) -> list[dict[str, Any]]:
        calls.append(name)
        if name == "b" and not works:
            raise ArithmeticError("the case is broken")
        return [{"value": name}]

    part = Part("part", 1.0, [(name, lambda name=name: case(name)) for name in "abc"])
    settings = {"device": "one"}
    ledger = _Ledger(part, path, settings)
    ledger.measure(time.monotonic() - 1, print)
    assert calls == [] and not path.exists() and ledger.result().missing == ("a", "b", "c")
    ledger.measure(math.inf, print)
    ledger.measure(math.inf, print)  # in one run a failed case is not tried again
    assert calls == ["a", "b", "c"] and ledger.result().failed == ("b",)
    stored = json.loads(path.read_text())["rows"]
    assert {"case": "b", "failed": "ArithmeticError: the case is broken"} in stored and len(stored) == 3
    works = True
    again = _Ledger(part, path, settings)
    assert again.result().missing == ("b",)
    again.measure(math.inf, print)
    assert calls == ["a", "b", "c", "b"] and again.result().missing == again.result().failed == ()
    assert [row["value"] for row in json.loads(path.read_text())["rows"]] == ["a", "c", "b"]
    with pytest.raises(BenchmarkError, match="other settings"):
        _Ledger(part, path, {"device": "another"})


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["bench", "gpu", "--json", str(tmp_path / "out")])
    assert isinstance(result.exception, BenchmarkError) and result.exit_code != 0
    assert str(result.exception).startswith("fibo bench gpu needs an NVIDIA GPU")
    with pytest.raises(SystemExit) as stopped:
        main(["--json", str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"{result.exception}\n" and not (tmp_path / "out").exists()


def test_ratios_are_to_the_fastest_baseline_within_each_round() -> None:
    times = {
        "slow": [4.0, 4.0, 4.0],
        "fast": [2.0, 2.0, 3.0],
        "ours": [1.0, 0.5, 1.0],
        "flex_attention": [1] * 3,
    }
    rows = {row["op"]: row for row in compare(cast(Any, times), ["slow", "fast", "absent"])}
    assert rows["ours"]["best_dense"] == "fast" and rows["ours"]["milliseconds"] == 1000
    assert rows["ours"]["speedup_vs_best_dense"] == 3 and rows["ours"]["spread"] == (2.5, 3.5)
    assert rows["ours"]["speedup_vs_flex"] == 1 and rows["slow"]["speedup_vs_best_dense"] == 0.5


def test_what_cannot_run_is_left_out_with_its_reason() -> None:
    runs, left_out = usable({"works": lambda: 1, "fails": lambda: 1 // 0})
    assert list(runs) == ["works"] and left_out == {
        "fails": "ZeroDivisionError: integer division or modulo by zero"
    }


def test_a_wrong_kernel_fails_the_command() -> None:
    row = {"case": "diagonal", "passed": False, "errors": {"out": None}, "tolerance": 1e-6}
    wrong = [PartResult("correctness", [row], (), ("later",))]
    assert verdict(wrong) == 1 and "WRONG diagonal" in "\n".join(lines(wrong))
    row["passed"] = True
    assert verdict(wrong) == 0 and "no time for: later" in "\n".join(lines(wrong))


def test_our_attention_may_not_be_left_out() -> None:
    for name, status in (("sdpa_cudnn", 0), ("flex_attention", 0), ("fibottention", 1)):
        results = [PartResult("attention", [{"case": "a", "left_out": {name: "OutOfMemory"}}], (), ())]
        assert verdict(results) == status and f"no {name}: OutOfMemory" in "\n".join(lines(results))


def test_flex_attention_gets_the_mask_of_fibottention() -> None:
    offsets = head_offsets(29, 3)
    q, k, v = torch.randn(3, 1, 3, 30, 16)
    out = flex_attention(30, offsets, "cpu")(q, k, v)
    torch.testing.assert_close(out, reference_attention(q, k, v, offsets), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "frames", "tokens"), [("image", 1, 5), ("divided", 2, 5), ("joint", 2, 9)])
def test_encoders_have_the_tokens_that_the_rows_say(kind, frames, tokens) -> None:
    case = TrainingCase(kind, "vit_micro", 24, 12, frames, 2)
    encoder = training._encoder(case, "softmax")
    seen = []
    block = cast(Any, encoder).vit.blocks[0].attn
    block.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    shape = (2, 3, 24, 24) if kind == "image" else (2, frames, 3, 24, 24)
    assert encoder(torch.rand(shape)).pooled.shape == (2, 128)
    assert case.tokens == tokens and seen == [tokens]


def test_worlds_are_compared_with_processes_on_all_cores(monkeypatch) -> None:
    monkeypatch.setattr(simulator.os, "cpu_count", lambda: 2)
    rows = simulator.measure(SimulatorCase("toy", 3, True), "cpu", 1, task=cast(Any, ToyTask()), make=maker())
    assert [(r["engine"], r["worlds"]) for r in rows] == [("processes", 1), ("processes", 2), ("worlds", 3)]
    one, two, worlds = (row["env_steps_per_s"] for row in rows)
    assert rows[0]["speedup_vs_one_process"] == 1
    assert rows[2]["speedup_vs_one_process"] == pytest.approx(worlds / one)
    assert rows[2]["speedup_vs_processes"] == pytest.approx(worlds / max(one, two))


def test_worlds_are_measured_where_processes_cannot_draw(monkeypatch) -> None:
    as_it_is = worlds.measure

    def measure(policy: Any, task: Any, counts: Any, device: str, workers: Any, *rest: Any) -> Any:
        if workers:
            raise RendererError("No library was found.\nMore.")
        return as_it_is(policy, task, counts, device, workers, *rest)

    monkeypatch.setattr(worlds, "measure", measure)
    rows = simulator.measure(SimulatorCase("toy", 2, True), "cpu", 1, task=cast(Any, ToyTask()), make=maker())
    assert [row.get("engine") for row in rows] == ["worlds", None] and rows[0]["env_steps_per_s"] > 0
    assert rows[1]["left_out"] == {"processes": "RendererError: No library was found."}
    result = PartResult("simulator", [{"case": "toy", **row} for row in rows], (), ())
    assert verdict([result]) == 0 and "no processes: RendererError" in "\n".join(lines([result]))


def test_case_names_are_unique_and_tolerances_follow_the_rounding() -> None:
    from fibo_robot.benchmarks.gpu.plan import FULL, _parts

    for part in _parts("cpu", FULL):
        names = [name for name, _ in part.cases]
        assert len(names) == len(set(names))
    usual, large = (Case(1, 4, 1, 8, "paper", "drop", logit=logit) for logit in (0.0, -20.0))
    assert large.tolerance == 20 * usual.tolerance
