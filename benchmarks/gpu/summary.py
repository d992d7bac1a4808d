"""What `fibo bench gpu` prints last: a line per case, and what did not work."""

from collections.abc import Iterator, Sequence

from fibo_robot.benchmarks.attention.cases import FLEX
from fibo_robot.benchmarks.gpu.plan import PartResult
from fibo_robot.benchmarks.gpu.speed import FUSED


def lines(results: Sequence[PartResult]) -> Iterator[str]:
    """Ratios with their quartiles, failed comparisons, and what is missing."""
    for part in results:
        yield f"{part.name}: {len({row['case'] for row in part.rows})} cases"
        if part.name == "correctness":
            wrong = [row for row in part.rows if not row["passed"]]
            yield from (
                f"  WRONG {row['case']}: {row['errors']}, at most {row['tolerance']:g}" for row in wrong
            )
        for row in part.rows:
            if "speedup_vs_best_dense" in row:
                low, high = row["spread"]
                yield (
                    f"  {row['case']}, {row['launch']}: {row['op']} {row['milliseconds']:.3f} ms, "
                    f"{row['speedup_vs_best_dense']:.2f}x ({low:.2f}-{high:.2f}) of {row['best_dense']}"
                    + (
                        f", {row['speedup_vs_flex']:.2f}x of FlexAttention"
                        if "speedup_vs_flex" in row
                        else ""
                    )
                )
            elif "left_out" in row:
                yield from (f"  {row['case']}: no {name}: {why}" for name, why in row["left_out"].items())
            elif "env_steps_per_s" in row:
                yield (
                    f"  {row['case']}: {row['worlds']} {row['engine']}, {row['env_steps_per_s']:.0f} steps/s"
                    + (
                        f", {row['speedup_vs_processes']:.1f}x of the fastest processes"
                        if "speedup_vs_processes" in row
                        else ""
                    )
                )
        if part.failed:
            yield f"  failed: {'; '.join(part.failed)}"
        if part.missing:
            yield f"  no time for: {'; '.join(part.missing)} (run again to go on)"


def verdict(results: Sequence[PartResult]) -> int:
    """The exit status: 1 where a kernel is wrong, or a case or one of our competitors failed, else 0."""
    rows = [row for part in results for row in part.rows]
    wrong = any(not row.get("passed", True) for row in rows)
    # Not every device and type has each of PyTorch's kernels.
    theirs = (*FUSED, FLEX, "processes")
    broken = any(not name.startswith(theirs) for row in rows for name in row.get("left_out", {}))
    return int(wrong or broken or any(part.failed for part in results))
