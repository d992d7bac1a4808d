"""How fast demonstrations become batches, against robomimic's own SequenceDataset on the same file.

Each way of reading is a process of its own, so that its resident memory is its own; rounds are interleaved
over all of them. robomimic's pictures stay `(H, W, 3)`, ours are turned to `(3, H, W)` within the time.

Where a sample has one observation and a chunk of actions (`window="past"`), robomimic has to read as many
pictures as actions, because its sequences have one length; in `window="sequence"` both read equally many.
"""

import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from fibo_robot.benchmarks.harness import BenchmarkError, interleave, speedup
from fibo_robot.benchmarks.policies.samples import (
    Cache,
    Samples,
    check_same_samples,
    our_dataset,
    robomimic_dataset,
    v3_dataset,
)
from fibo_robot.interfaces import Window
from fibo_robot.training.sampler import StepSampler

OURS, V3, BASELINE = "fibo", "fibo_v3", "robomimic"
_READ_AHEAD = 2  # batches that a DataLoader's process has ready, by PyTorch's default
_SECONDS_TO_ANSWER = 3600  # caching a large file takes robomimic a while


@dataclass(frozen=True)
class Reading:
    """One way of reading a file.

    Attributes:
        case: `fibo`, `fibo_v3` (the same in LeRobot's format) or `robomimic`.
        cache: what is kept in memory: `low_dim` vectors and actions, `all` pictures too.
        workers: loader processes.
    """

    case: str
    cache: Cache
    workers: int

    @property
    def name(self) -> str:
        return f"{self.case} {self.cache} {self.workers}"


@dataclass(frozen=True)
class DataRow:
    """How fast one way of reading is.

    Attributes:
        case, cache, workers: see Reading.
        window, n_obs_steps, action_horizon, batch_size: what a batch is.
        batches_per_s: median over rounds.
        speedup: over robomimic's fastest way that keeps no pictures in memory, in the same round, median;
            `spread`: its quartiles.
        speedup_vs_all: over robomimic's fastest way that keeps all of them; None where it was not run.
        resident_mb: memory of the training process after the last round, MiB; `worker_resident_mb`: of the
            largest loader process, what it shares with the training process included; None without any.
        start_s: seconds until the first batch.
    """

    case: str
    cache: Cache
    workers: int
    window: Window
    n_obs_steps: int
    action_horizon: int
    batch_size: int
    batches_per_s: float
    speedup: float
    spread: tuple[float, float]
    speedup_vs_all: float | None
    resident_mb: float
    worker_resident_mb: float | None
    start_s: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def measure(
    samples: Samples,
    workers: Sequence[int] = (0, 2),
    caches: Sequence[Cache] = ("none", "low_dim"),
    rounds: int = 3,
) -> list[DataRow]:
    """Measure all with each number of workers, robomimic also with each of its caches.

    Raises:
        BenchmarkError: a batch of another one holds other numbers than ours, or a process fails.
    """
    check_same_samples(samples)
    ours = [OURS] if samples.v3 is None else [OURS, V3]
    readings = [Reading(case, "low_dim", count) for case in ours for count in workers]
    for cache in caches:
        readings += [Reading(BASELINE, cache, count) for count in workers]
    processes: dict[Reading, _Process] = {}
    try:
        for reading in readings:
            processes[reading] = _Process(samples, reading)
        # Each takes its own time, so that what its loaders have read ahead does not count. The first round
        # does not either: it finds parts of the file that no one has read yet.
        interleave({r.name: process.run_round for r, process in processes.items()}, rounds + 1, warmup=0)
        return _rows(samples, processes)
    finally:
        for process in processes.values():
            process.close()


def _rows(samples: Samples, processes: "dict[Reading, _Process]") -> list[DataRow]:
    def fastest(loaded: bool) -> list[float]:
        times = [
            process.seconds[1:]
            for reading, process in processes.items()
            if reading.case == BASELINE and (reading.cache == "all") == loaded
        ]
        return min(times, key=np.median, default=[])

    loaded = fastest(loaded=True)
    baseline = fastest(loaded=False) or loaded
    rows = []
    for reading, process in processes.items():
        seconds = process.seconds[1:]
        ratio, spread = speedup(baseline, seconds)
        own, worker = process.resident_mb()
        rows.append(
            DataRow(
                **asdict(reading),
                window=samples.window,
                n_obs_steps=samples.shape_meta.n_obs_steps,
                action_horizon=samples.shape_meta.action_horizon,
                batch_size=samples.batch_size,
                batches_per_s=samples.batches / float(np.median(seconds)),
                speedup=ratio,
                spread=spread,
                speedup_vs_all=speedup(loaded, seconds)[0] if loaded else None,
                resident_mb=own,
                worker_resident_mb=worker,
                start_s=process.start_s,
            )
        )
    return rows


class _Process:
    """A process that reads batches when told to."""

    def __init__(self, samples: Samples, reading: Reading) -> None:
        context = multiprocessing.get_context("spawn")
        self._link, other = context.Pipe()
        self.seconds: list[float] = []
        # Not daemonic: it has loader processes of its own.
        self._process = context.Process(target=_serve, args=(samples, reading, other))
        self._process.start()
        other.close()
        try:
            self.start_s: float = self._answer()
        except BaseException:
            self.close()
            raise

    def _answer(self) -> Any:
        try:
            if self._link.poll(_SECONDS_TO_ANSWER):
                return self._link.recv()
        except EOFError:
            pass
        raise BenchmarkError("A process that reads batches has failed; what it said stands above.")

    def run_round(self) -> None:
        """Read so many batches, and note how long it took."""
        self._link.send("round")
        self.seconds.append(self._answer())

    def resident_mb(self) -> tuple[float, float | None]:
        self._link.send("memory")
        return self._answer()

    def close(self) -> None:
        self._link.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.terminate()


def _serve(samples: Samples, reading: Reading, link: Connection) -> None:
    torch.set_num_threads(1)
    begin = perf_counter()
    batches = _endless(samples, reading)
    next(batches)
    link.send(perf_counter() - begin)
    while True:
        try:
            asked = link.recv()
        except EOFError:
            return
        if asked == "memory":
            link.send(_resident_mb())
            continue
        for _ in range(_READ_AHEAD * reading.workers):
            next(batches)
        begin = perf_counter()
        for _ in range(samples.batches):
            next(batches)
        link.send(perf_counter() - begin)


def _endless(samples: Samples, reading: Reading) -> Iterator[Any]:
    """Batches for ever, by processes that go on from pass to pass."""
    workers: dict[str, Any] = {"num_workers": reading.workers, "persistent_workers": reading.workers > 0}
    sampler: StepSampler | None = None
    if reading.case != BASELINE:
        ours = our_dataset(samples) if reading.case == OURS else v3_dataset(samples)
        sampler = StepSampler(len(ours), samples.batch_size, max(1, len(ours) // samples.batch_size), seed=0)
        loader: DataLoader[Any] = DataLoader(ours, batch_sampler=sampler, collate_fn=_as_is, **workers)
    else:
        theirs = robomimic_dataset(samples, reading.cache)
        loader = DataLoader(theirs, samples.batch_size, shuffle=True, drop_last=True, **workers)
    epoch = 0
    while True:
        if sampler is not None:
            sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def _as_is(batch: Any) -> Any:
    return batch


def _resident_mb() -> tuple[float, float | None]:
    """Resident memory of this process, and of its largest loader process, MiB."""
    own, *loaders = (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        for pid in ("self", *(child.pid for child in multiprocessing.active_children()))
    )
    return own, max(loaders, default=None)
