"""The part of a report that compares methods: rates with intervals, and every pair."""

from fibo_robot.envs.results.comparison.compare import Comparison
from fibo_robot.reporting import Report, Section
from fibo_robot.statistics import format_interval, format_rate


def add_comparison(report: Report, comparison: Comparison) -> Section:
    """Add a table of methods with intervals, a figure, and a table of pairs."""
    section = report.section("Comparison", "Success rates with 95 % intervals, and every pair of methods.")
    for note in comparison.notes:
        section.note(note, kind="warning")
    section.figure(comparison.figure(), "Success rate of each method with its 95 % interval.")
    section.table(
        [
            {
                "method": row.method,
                "rate": format_rate(row.success_rate),
                "interval": format_interval(row.low, row.high),
                "runs": row.runs,
                "checkpoints": row.checkpoints,
                "episodes": row.episodes,
                "at_end": format_rate(row.success_at_end),
                "length": row.mean_length,
                "errors": row.errors,
            }
            for row in comparison.methods
        ],
        {
            "method": "Method",
            "rate": "Success",
            "interval": "95 % interval",
            "runs": "Training runs",
            "checkpoints": "Checkpoints each",
            "episodes": "Episodes",
            "at_end": "At end",
            "length": "Mean steps",
            "errors": "Errors",
        },
        caption="Methods",
    )
    section.table(pair_rows(comparison), caption="Pairs")
    if costs := cost_rows(comparison):
        section.table(costs, caption="What training took: means over the runs, and the most memory of one")
    section.text(
        "Differences in percentage points, with 95 % intervals; solved alone: seeds that only the first, "
        "and only the second of the two solved. Single runs are paired on common seeds: exact McNemar "
        "test, Newcombe's interval of the difference. Several training runs are compared by a t test on "
        "their common seeds, with the variance between runs and between seeds. Where several checkpoints of "
        "a run were evaluated, the mean of their outcomes is the run's outcome on a seed. Adjusted p-values "
        "allow for the number of pairs (Holm). Seeds needed: to tell a difference of this size apart four "
        "times in five."
    )
    return section


def cost_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Of the methods whose trainings tell what they took, rows of text for tables."""
    return [
        {
            "Method": row.method,
            "Training, min": f"{row.training_minutes:.1f}",
            "Processor, min": f"{row.training_cpu_minutes:.1f}",
            "Memory, MiB": f"{row.training_memory_mb:.0f}",
        }
        for row in comparison.methods
        if row.training_minutes is not None
    ]


def pair_rows(comparison: Comparison) -> list[dict[str, str | int | None]]:
    """Pairs as rows of text, for tables; differences in percentage points, p-values to three digits."""
    rows = []
    for pair in comparison.pairs:
        difference = f"{100 * pair.difference:+.1f}"
        if pair.low is not None and pair.high is not None:
            difference += f" ({100 * pair.low:+.1f} to {100 * pair.high:+.1f})"
        rows.append(
            {
                "Pair": f"{pair.a} − {pair.b}",
                "Difference, points": difference,
                "p": _format_p(pair.p_value),
                "p, adjusted": _format_p(pair.p_holm),
                "Solved alone": None if pair.only_a is None else f"{pair.only_a} / {pair.only_b}",
                "Seeds": pair.common_seeds,
                "Seeds needed": pair.episodes_needed,
            }
        )
    return rows


def _format_p(p: float | None) -> str | None:
    if p is None:
        return None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
