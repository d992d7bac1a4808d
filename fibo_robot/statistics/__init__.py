"""How much a success rate can be trusted, and what it takes to tell two of them apart.

A rollout yields one success or failure per seed. Here these become intervals (:mod:`.intervals`), two
policies are compared on the same seeds, so that the difficulty of a seed cancels (:mod:`.paired`), training
runs are averaged and compared without pretending that their episodes are independent (:mod:`.training_runs`),
and it is said how many episodes a comparison needs (:mod:`.sample_size`). Classifiers whose clips have any
number of labels are judged by :mod:`.multi_label`. All rates and interval ends lie in
[0, 1] (differences in [-1, 1]); `confidence` is two-sided.
"""

from fibo_robot.statistics.intervals import (
    CONFIDENCE,
    Interval,
    format_interval,
    format_rate,
    wilson_interval,
)
from fibo_robot.statistics.multi_label import average_precision, mean_average_precision_interval
from fibo_robot.statistics.paired import PairedCounts, mcnemar_exact, newcombe_interval
from fibo_robot.statistics.sample_size import episodes_to_resolve, mcnemar_power
from fibo_robot.statistics.training_runs import (
    CheckpointAverage,
    RunAverage,
    RunDifference,
    average_over_checkpoints,
    average_over_runs,
    difference_over_checkpoints,
    difference_over_runs,
)

__all__ = [
    "CONFIDENCE",
    "CheckpointAverage",
    "Interval",
    "PairedCounts",
    "RunAverage",
    "RunDifference",
    "average_over_checkpoints",
    "average_over_runs",
    "average_precision",
    "difference_over_checkpoints",
    "difference_over_runs",
    "episodes_to_resolve",
    "format_interval",
    "format_rate",
    "mcnemar_exact",
    "mcnemar_power",
    "mean_average_precision_interval",
    "newcombe_interval",
    "wilson_interval",
]
