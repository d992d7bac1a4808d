"""`fibo bench startup`: how long a command takes to its first answer, each in a fresh process.

Wall time is what a user waits; CPU time says what the command itself costs, also on a machine that other work
shares.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.envs.rollouts.videos import encode_mp4
from fibo_robot.progress import track
from fibo_robot.training.build import build
from fibo_robot.training.checkpoint import save_checkpoint
from fibo_robot.training.config import compose_config

FRAMES, SIDE, FPS = 16, 96, 10  # of the clip, as `fibo demos skills` films
LABELS = ["lift", "lower", "approach", "retreat", "move_right", "move_left"]


@dataclass(frozen=True)
class StartupRow:
    """What one command took.

    Attributes:
        case: the command.
        seconds: wall time, median over the rounds.
        spread: its lower and upper quartile; the extremes with fewer than four rounds.
        cpu_seconds: CPU time of the process and its children, median.
    """

    case: str
    seconds: float
    spread: tuple[float, float]
    cpu_seconds: float

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def measure(rounds: int = 5) -> list[StartupRow]:
    """What `fibo` takes for its help, for `fibo doctor`, for one clip, and before training does anything.

    Raises:
        BenchmarkError: a command failed; with what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, clip = Path(folder, "run"), Path(folder, "clip.mp4")
        _untrained_classifier(run)
        noise = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
        clip.write_bytes(encode_mp4(list(noise), FPS))
        fibo = (sys.executable, "-m", "fibo_robot.cli")
        commands = {
            "fibo --help": (*fibo, "--help"),
            "fibo classify RUN clip.mp4": (*fibo, "classify", str(run), str(clip)),
            "fibo doctor": (*fibo, "doctor"),
            "imports of fibo train": (sys.executable, "-c", "import fibo_robot.training.run"),
        }
        # A missing renderer is an answer of the doctor's, not a failure of the measurement.
        return measure_commands(commands, rounds, may_fail=("fibo doctor",))


def measure_commands(
    commands: Mapping[str, Sequence[str]], rounds: int, may_fail: Sequence[str] = ()
) -> list[StartupRow]:
    """Run every command once per round, after one round that fills the disk's cache and is not counted.

    Args:
        commands: programs with their arguments, by name.
        rounds: how often each is timed.
        may_fail: names of commands whose exit status does not matter.

    Raises:
        BenchmarkError: a command failed; with what it wrote.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for name in track([*commands] * (rounds + 1), "starting commands"):
        taken[name].append(_run(name, commands[name], name in may_fail))
    rows = []
    for name, times in taken.items():
        walls, cpu = zip(*times[1:])
        quartiles = statistics.quantiles(walls, n=4, method="inclusive") if rounds > 3 else None
        spread = (min(walls), max(walls)) if quartiles is None else (quartiles[0], quartiles[2])
        rows.append(StartupRow(name, statistics.median(walls), spread, statistics.median(cpu)))
    return rows


def _run(name: str, command: Sequence[str], may_fail: bool) -> tuple[float, float]:
    """Seconds of wall time, and of CPU time with children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and not may_fail:
        raise BenchmarkError(f"{name} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _untrained_classifier(directory: Path) -> None:
    """A classifier as the quickstart trains one; what its weights are does not matter to the time."""
    node = compose_config(["experiment=video_skills", "data.root=none"]).classifier.classifier
    model = build(node, labels=LABELS)
    meta = {
        "kind": "classifier",
        "labels": LABELS,
        "sampling": model.sampling.to_dict(),
        "cropping": model.cropping.to_dict(),
    }
    plain = OmegaConf.to_container(node, resolve=True)
    save_checkpoint(directory, model.state_dict(), {"classifier": {"classifier": plain}}, meta)
