"""What is known of a training run: its checkpoint's evaluation, or the mean over its last checkpoints.

The mean over the last checkpoints, on the same seeds, is the number to report of a training run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from fibo_robot.envs.errors import EvaluationError
from fibo_robot.envs.results.evaluation import EVAL_FILE, Evaluation
from fibo_robot.files import write_json
from fibo_robot.statistics import CheckpointAverage, average_over_checkpoints, format_interval, format_rate

LAST_FILE = "last.json"


@dataclass(frozen=True)
class LastCheckpoints:
    """Success of several checkpoints of one run, each on the same seeds.

    Attributes:
        evaluations: of each, by its name, in the order of training; at least two.
    """

    evaluations: Mapping[str, Evaluation]

    @property
    def rates(self) -> dict[str, float]:
        """Success rate of each checkpoint."""
        return {name: evaluation.success_rate for name, evaluation in self.evaluations.items()}

    @property
    def average(self) -> CheckpointAverage:
        """The mean of the rates, with an interval for these checkpoints on other seeds.

        What another training run would give is not in it.

        Raises:
            ValueError: there are fewer than two checkpoints, or one has no episode that counts.
        """
        return average_over_checkpoints([one.outcomes() for one in self.evaluations.values()])

    @property
    def _episodes(self) -> int:
        """Counted ones of each checkpoint, at most."""
        return max(len(evaluation.counted) for evaluation in self.evaluations.values())

    @property
    def _best(self) -> str:
        """The checkpoint with the highest rate."""
        return max(self.rates.items(), key=lambda row: row[1])[0]

    def to_text(self) -> str:
        """Three sentences: the mean, what its interval is for, and that the best of them is no result."""
        average, rates, best = self.average, self.rates, self._best
        return (
            f"mean of the last {len(rates)} checkpoints: {format_rate(average.rate)} "
            f"({format_interval(*average.interval)}), {self._episodes} episodes each.\n"
            "The interval is for these checkpoints on other seeds; another training run may lie outside it.\n"
            f"The best of them, {best} with {format_rate(rates[best])}, is chosen on these test seeds: "
            "report the mean."
        )

    def save(self, folder: Path) -> Path:
        """Write `last.json` beside the folders of the evaluations; returns its path."""
        average = self.average
        write_json(
            folder / LAST_FILE,
            {
                "success_once": average.rate,
                "success_interval": list(average.interval),
                "n_episodes": self._episodes,
                "checkpoints": self.rates,
                "best_chosen_on_test_seeds": self._best,
            },
        )
        return folder / LAST_FILE

    @classmethod
    def load(cls, path: Path | str) -> "LastCheckpoints":
        """Read `last.json` and the evaluations beside it.

        Raises:
            EvaluationError: there is no such file, it is damaged, or an evaluation is missing or has changed
                since.
        """
        path = Path(path)
        try:
            rates = dict(json.loads(path.read_text(encoding="utf-8"))["checkpoints"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path} cannot be read as the last checkpoints' result ({error})."
            ) from error
        evaluations = {name: Evaluation.load(path.parent / name) for name in rates}
        changed = [name for name, evaluation in evaluations.items() if evaluation.success_rate != rates[name]]
        if len(rates) < 2 or changed:
            raise EvaluationError(
                f"{path} is not the mean of the evaluations beside it; run `fibo rollout --last` again, with "
                "--resume."
            )
        return cls(evaluations)


Run: TypeAlias = Evaluation | LastCheckpoints
"""One training run: its checkpoint's evaluation, or those of its last checkpoints."""


def evaluations_of(run: Run) -> tuple[Evaluation, ...]:
    """Of each of its checkpoints."""
    return tuple(run.evaluations.values()) if isinstance(run, LastCheckpoints) else (run,)


def outcomes_of(run: Run) -> dict[int, float]:
    """Success by seed, as a share of its checkpoints; of the seeds that count for all of them."""
    checkpoints = [evaluation.outcomes() for evaluation in evaluations_of(run)]
    seeds = sorted(set.intersection(*map(set, checkpoints)))
    return {seed: float(np.mean([outcomes[seed] for outcomes in checkpoints])) for seed in seeds}


def load_run(path: Path | str) -> Run:
    """What a rollout found: `eval.json`, `last.json`, or the one of the two that a folder holds.

    Raises:
        EvaluationError: neither can be read, or the folder holds both.
    """
    path = Path(path)
    last = path / LAST_FILE if path.is_dir() else path
    if last.name != LAST_FILE or not last.exists():
        return Evaluation.load(path)
    if path.is_dir() and (path / EVAL_FILE).exists():
        raise EvaluationError(
            f"{path} holds a single checkpoint's evaluation and that of the last ones: "
            f"name {path / EVAL_FILE} or {last}."
        )
    return LastCheckpoints.load(last)


def load_method(argument: str) -> tuple[str, list[Path]]:
    """Read `[LABEL=]PATH[,PATH…]`; without a label, the folder that names the run.

    A path may itself hold `=` or `,`: what exists as it stands is a path, and a label holds no slash.
    """
    if Path(argument).exists():
        label, folders = "", [Path(argument)]
    else:
        label, equals, paths = argument.partition("=")
        if not equals or "/" in label or Path(argument.split(",")[0]).exists():
            label, paths = "", argument
        folders = [Path(paths)] if Path(paths).exists() else [Path(path) for path in paths.split(",")]
    if not label:
        folder = folders[0].parent if folders[0].name in (EVAL_FILE, LAST_FILE) else folders[0]
        folder = folder.resolve()
        label = folder.parent.name if folder.name == "rollouts" else folder.name
    return label, folders
