"""The mean success of a run's last checkpoints on the same seeds: the number to report of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.files import write_json
from fibo_robot.statistics import CheckpointAverage, average_over_checkpoints, format_interval, format_rate

LAST_FILE = "last.json"


@dataclass(frozen=True)
class LastCheckpoints:
    """Success of several checkpoints of one run, each on the same seeds.

    Attributes:
        rates: success rate of each, by its name, in the order of training.
        average: their mean, with an interval for these checkpoints on other seeds. What another training run
            would give is not in it.
        episodes: of each.
    """

    rates: Mapping[str, float]
    average: CheckpointAverage
    episodes: int

    @classmethod
    def of(cls, evaluations: Mapping[str, Evaluation]) -> "LastCheckpoints":
        """The mean of at least two evaluations.

        Raises:
            ValueError: there are fewer, or one has no episode that counts.
        """
        outcomes = [
            {seed: episode.success_once for seed, episode in evaluation.by_seed().items()}
            for evaluation in evaluations.values()
        ]
        rates = {name: evaluation.success_rate for name, evaluation in evaluations.items()}
        return cls(rates, average_over_checkpoints(outcomes), max(map(len, outcomes)))

    def to_text(self) -> str:
        """Three sentences: the mean, what its interval is for, and that the best of them is no result."""
        low, high = self.average.interval
        best = max(self.rates, key=lambda name: self.rates[name])
        return (
            f"mean of the last {len(self.rates)} checkpoints: {format_rate(self.average.rate)} "
            f"({format_interval(low, high)}), {self.episodes} episodes each.\n"
            "The interval is for these checkpoints on other seeds; another training run may lie outside it.\n"
            f"The best of them, {best} with {format_rate(self.rates[best])}, is chosen on these test seeds: "
            "report the mean."
        )

    def save(self, folder: Path) -> Path:
        """Write `last.json`; returns its path."""
        rate, interval = self.average.rate, list(self.average.interval)
        write_json(
            folder / LAST_FILE,
            {
                "success_once": rate,
                "success_interval": interval,
                "n_episodes": self.episodes,
                "checkpoints": dict(self.rates),
                "best_chosen_on_test_seeds": max(self.rates, key=lambda name: self.rates[name]),
            },
        )
        return folder / LAST_FILE
