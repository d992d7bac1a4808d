"""What `fibo bench gpu` measures, in which order, and for how long.

A part has a share of the time and writes its own JSON file after every case, whole or not at all. A part
that is through early leaves its time to those after it, and what is left at the end goes to cases that had to
wait. Run again into the same folder with the same kernels on the same kind of device, all that is missing is
measured, cases that failed included.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch

from fibo_robot.attention.backends import triton
from fibo_robot.attention.sparse.diagonal import Backend
from fibo_robot.benchmarks.gpu import angular, branch, correctness, simulator, speed, training
from fibo_robot.benchmarks.gpu.angular import AngularCase
from fibo_robot.benchmarks.gpu.branch import BranchCase
from fibo_robot.benchmarks.gpu.correctness import Case
from fibo_robot.benchmarks.gpu.simulator import SimulatorCase
from fibo_robot.benchmarks.gpu.speed import Direction, Rounds, Scope, SpeedCase
from fibo_robot.benchmarks.gpu.training import TrainingCase
from fibo_robot.benchmarks.harness import BenchmarkError, read_results, write_results

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """What to measure.

    Attributes:
        checks: comparisons of diagonal attention; `angular_checks`: of Castling's linear part;
            `branch_checks`: of its training branch.
        lengths: tokens and batch of attentions, the most telling first; heads of 64.
        dtypes: keys of `speed.DTYPES`, and `heads` of attentions and modules.
        training, worlds: cases of training steps and of the simulator.
        rounds: of a case of attention; `step_rounds` of training steps.
    """

    checks: tuple[Case, ...]
    angular_checks: tuple[AngularCase, ...]
    branch_checks: tuple[BranchCase, ...]
    lengths: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    heads: int
    training: tuple[TrainingCase, ...]
    worlds: tuple[SimulatorCase, ...]
    rounds: Rounds
    step_rounds: Rounds


# One class token and 14 x 14 patches times 16, 8, 4, 64 and 1; about 12544 tokens a batch.
FULL = Sizes(
    checks=(*correctness.LARGE, *correctness.CASES),
    angular_checks=(*angular.LARGE, *angular.CASES),
    branch_checks=(*branch.LARGE, *branch.CASES),
    lengths=((3137, 4), (1569, 8), (785, 16), (12545, 1), (197, 64)),
    dtypes=("bfloat16", "float32"),
    heads=12,
    training=(
        TrainingCase("joint", "vit_base_patch16_224", 224, 16, 16, 2),
        TrainingCase("divided", "vit_base_patch16_224", 224, 16, 8, 8),
        TrainingCase("image", "vit_base_patch16_224", 224, 16, 1, 64),
        TrainingCase("joint", "vit_base_patch16_224", 224, 16, 8, 4),
        TrainingCase("image", "vit_base_patch16_224", 448, 16, 1, 16),
    ),
    worlds=(
        SimulatorCase("lift", 512, False),
        SimulatorCase("lift", 128, True),
        SimulatorCase("lift", 2048, False),
    ),
    rounds=Rounds(15, 0.02),
    step_rounds=Rounds(7, 0.2),
)


@dataclass(frozen=True)
class Part:
    """One JSON file.

    Attributes:
        name: of the file.
        share: of the whole time, with all parts before it.
        cases: names, and functions that return rows.
        why_empty: what the file says where there are no cases.
    """

    name: str
    share: float
    cases: Sequence[tuple[str, Callable[[], Rows]]]
    why_empty: str | None = None


@dataclass(frozen=True)
class PartResult:
    """What became of a part: its rows, and the names of cases that failed or are still to be measured."""

    name: str
    rows: Rows
    failed: tuple[str, ...]
    missing: tuple[str, ...]


def run(
    folder: Path,
    minutes: float,
    *,
    device: Literal["cuda", "cpu"] = "cuda",
    sizes: Sizes = FULL,
    say: Callable[[str], None] = print,
) -> list[PartResult]:
    """Measure for so long, and go on from what the folder holds.

    Args:
        folder: for one JSON file per part; made if it is not there.
        minutes: no case begins later than this.
        device: `cuda`; on `cpu` the same program runs with the CPU's kernels, to be tried.
        sizes: what to measure.
        say: gets a line about every case.

    Raises:
        BenchmarkError: there is no such device, or the folder holds results of another kind of it or of other
            kernels.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("fibo bench gpu needs an NVIDIA GPU, and PyTorch finds no CUDA device here.")
    if minutes <= 0:
        raise BenchmarkError(f"minutes must be above 0, not {minutes:g}.")
    parts = _parts(device, sizes)
    settings = _settings(device, sizes)
    ledgers = [_Ledger(part, folder / f"{part.name}.json", settings) for part in parts]
    begin, whole = time.monotonic(), 60 * minutes
    for shares in ([part.share for part in parts], [1.0] * len(parts)):
        for ledger, share in zip(ledgers, shares, strict=True):
            ledger.measure(begin + share * whole, say)
    return [ledger.result() for ledger in ledgers]


class _Ledger:
    """A part, its file and what is in it."""

    def __init__(self, part: Part, path: Path, settings: dict[str, Any]) -> None:
        self._part, self._path, self._settings = part, path, settings
        stored = read_results(path, settings)
        wrong = {row["case"] for row in stored if "failed" in row or not row.get("passed", True)}
        self._rows = [row for row in stored if row["case"] not in wrong and "left_out_part" not in row]
        self._failures: Rows = []
        if part.why_empty is not None:
            self._failures.append({"case": part.name, "left_out_part": part.why_empty})
            self._write()

    def measure(self, until: float, say: Callable[[str], None]) -> None:
        """Go through the cases that are missing, those of this run that failed left alone."""
        done = {row["case"] for row in self._rows + self._failures}
        for name, case in self._part.cases:
            if name in done:
                continue
            if time.monotonic() >= until:
                return
            try:
                self._rows += [{"case": name, **row} for row in case()]
                say(f"{self._part.name}: {name}")
            except Exception as error:  # the next case may work; the file and the last lines say what did not
                self._failures.append({"case": name, "failed": f"{type(error).__name__}: {error}"})
                say(f"{self._part.name}: {name} failed: {type(error).__name__}: {error}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._write()

    def result(self) -> PartResult:
        """What there is now."""
        done = {row["case"] for row in self._rows}
        failed = tuple(row["case"] for row in self._failures if "failed" in row)
        missing = tuple(name for name, _ in self._part.cases if name not in done and name not in failed)
        return PartResult(self._part.name, self._rows, failed, missing)

    def _write(self) -> None:
        write_results(self._path, self._rows + self._failures, self._settings)


def _parts(device: Literal["cuda", "cpu"], sizes: Sizes) -> list[Part]:
    kernel: Backend = "triton" if device == "cuda" else "numba"
    # In turns, so that every kernel has been checked when time runs out.
    kinds = (
        correctness.checks(device, kernel, sizes.checks),
        correctness.each("angular", sizes.angular_checks, partial(angular.errors, device=device)),
        correctness.each("branch", sizes.branch_checks, partial(branch.errors, device=device)),
    )
    checks = [
        (name, partial(_as_rows, check)) for turn in zip_longest(*kinds) for name, check in filter(None, turn)
    ]
    why_not = simulator.why_not() if sizes.worlds else "No worlds were asked for."
    worlds = () if why_not else sizes.worlds
    return [
        Part("correctness", 0.3, checks),
        Part("attention", 0.6, _speed_cases("alone", device, kernel, sizes)),
        Part("modules", 0.73, _speed_cases("module", device, kernel, sizes)),
        Part(
            "training",
            0.9 if worlds else 1.0,
            [
                (case.name, partial(training.measure, case, device, kernel, sizes.step_rounds))
                for case in sizes.training
            ],
        ),
        Part(
            "simulator",
            1.0,
            [(case.name, partial(simulator.measure, case, device)) for case in worlds],
            why_not,
        ),
    ]


def _as_rows(check: Callable[[], dict[str, Any]]) -> Rows:
    return [check()]


def _speed_cases(
    scope: Scope, device: str, kernel: Backend, sizes: Sizes
) -> list[tuple[str, Callable[[], Rows]]]:
    directions: tuple[Direction, ...] = ("forward", "forward_backward")
    cases: Iterable[SpeedCase] = (
        SpeedCase(scope, tokens, batch, sizes.heads, dtype, direction)
        for dtype in sizes.dtypes
        for tokens, batch in sizes.lengths
        for direction in directions
    )
    return [(case.name, partial(speed.measure, case, device, kernel, sizes.rounds)) for case in cases]


def _settings(device: str, sizes: Sizes) -> dict[str, Any]:
    """What results must have in common to stand in one file."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    timed = {"rounds": asdict(sizes.rounds), "step_rounds": asdict(sizes.step_rounds)}
    sources = sorted(Path(triton.__path__[0]).glob("*.py"))
    kernels = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    return {"device": name, "torch": torch.__version__, "kernels": kernels, "heads": sizes.heads, **timed}
