"""What all speed measurements share: fair timing, memory, the machine's description, and result files.

Competitors run interleaved in one process, so a machine that slows down slows all of them; what is reported
is the ratio within each round, with its spread over the rounds.
"""

import ctypes
import gc
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fibo_robot.errors import FiboError
from fibo_robot.files import write_json

STANDARD_OUTPUT = "-"


class BenchmarkError(FiboError):
    """A measurement cannot be made as asked."""


def interleave(
    cases: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    *,
    device: str = "cpu",
    least_seconds: float = 0.0,
) -> dict[str, list[float]]:
    """Time every case once per round, in an order that is drawn anew for each round.

    On CUDA the time is the device's own, between two events around all calls of a case in a round: a single
    launch would be timed with the CPU's work before it.

    Args:
        cases: what to call, by name.
        repeats: timed rounds.
        warmup: rounds before them that are not counted (they compile and fill caches).
        device: `cpu` or `cuda`.
        least_seconds: a case is called in one round until it has taken about so long in all.

    Returns:
        seconds per call in each round, by name; round i of every case ran next to round i of the others.
    """
    order, shuffle = list(cases), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    calls = dict.fromkeys(cases, 1)
    for round_index in range(warmup + repeats):
        shuffle.shuffle(order)
        for name in order:
            taken = _time(cases[name], calls[name], device)
            if round_index >= warmup:
                seconds[name].append(taken / calls[name])
            elif least_seconds:
                # Compiled by now: this call tells how many fit.
                once = _time(cases[name], 1, device)
                calls[name] = max(1, round(least_seconds / max(once, 1e-6)))
    return seconds


def _time(case: Callable[[], Any], calls: int, device: str) -> float:
    """Seconds that so many calls take together."""
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            case()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(calls):
        case()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000


def speedup(baseline: Sequence[float], ours: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """How many times faster `ours` is: median of the ratios within each round, and their quartiles."""
    ratios = [base / own for base, own in zip(baseline, ours, strict=True)]
    low, middle, high = quartiles(ratios)
    return middle, (low, high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower one, the median and the upper one; of a single value, itself."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def peak_memory_mb(case: Callable[[], Any], device: str = "cpu") -> float | None:
    """Memory that one call needs beyond what was in use before it, in MiB; None where it cannot be measured.

    On CUDA this is PyTorch's own count. On Linux with glibc it is the growth of the process's resident set to
    its peak, after the allocator has given back what it keeps of freed memory: a call that found room there
    would seem to need none.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None or not os.access(reset, os.W_OK):
        return None
    case()  # so that thread stacks and scratch buffers exist already
    gc.collect()
    malloc_trim(0)
    reset.write_text("5")  # resets the peak of the resident set, see proc(5)
    before = _status_kib("VmRSS")
    case()
    return max(0, _status_kib("VmHWM") - before) / 1024


def machine() -> dict[str, Any]:
    """The hardware and versions behind a number, JSON-ready."""
    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_results(
    path: Path | str, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any] | None = None
) -> None:
    """Write `{"machine": ..., "rows": [...]}` to a JSON file, atomically, with the settings if given.

    The path `-` is standard output.
    """
    described = {} if settings is None else {"settings": dict(settings)}
    results = {"machine": machine(), **described, "rows": [dict(row) for row in rows]}
    if str(path) == STANDARD_OUTPUT:
        print(json.dumps(results, indent=2), flush=True)
    else:
        write_json(path, results)


def read_results(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run with the same settings, to go on from; none where there is no such file.

    Raises:
        BenchmarkError: the file holds something else, or results of other settings.
    """
    if not path.exists():
        return []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        earlier, rows = stored["settings"], stored["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{path} holds no results to go on from: name another file.") from error
    wanted = json.loads(json.dumps(settings))  # as it was read back: tuples are lists
    if earlier != wanted:
        differing = sorted(name for name in {*earlier, *wanted} if earlier.get(name) != wanted.get(name))
        raise BenchmarkError(
            f"{path} holds results of other settings ({', '.join(differing)}): name another file."
        )
    return rows


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise BenchmarkError(f"/proc/self/status has no {field}: memory cannot be measured on this system.")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor()
