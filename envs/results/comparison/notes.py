"""Sentences beside a comparison: what about its evaluations may mislead."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.identity import other_task_note


def notes_on(methods: Mapping[str, Sequence[Evaluation]]) -> Iterator[str]:
    """The sentences about the methods' evaluations, all checkpoints' in one row."""
    yield from _condition_notes(methods)
    yield from _simulation_notes(methods)
    yield from _version_notes(methods)
    yield from _repetition_notes(methods)


def _condition_notes(methods: Mapping[str, Sequence[Evaluation]]) -> Iterator[str]:
    """A sentence for each method evaluated on another task than its own, or where seeds do not repeat."""
    for label, runs in methods.items():
        others = {other_task_note(run.other_task) for run in runs if run.other_task}
        yield from (f"{label}: {note}" for note in sorted(others))
        if any(run.rollout.get("reproducible") is False for run in runs):
            yield f"{label}: its simulation is not exact; an episode of one seed may end otherwise next time."


def _repetition_notes(methods: Mapping[str, Sequence[Evaluation]]) -> Iterator[str]:
    """How far two evaluations of the same weights agree, seed by seed: what their simulation leaves open."""
    single = {label: runs[0] for label, runs in methods.items() if len(runs) == 1}
    for (a, first), (b, second) in itertools.combinations(single.items(), 2):
        if (first.policy.get("weights") or 0) != second.policy.get("weights"):
            continue
        ours, theirs = first.by_seed(), second.by_seed()
        pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs.keys()]
        otherwise = sum(one.success_once != other.success_once for one, other in pairs)
        as_long = sum(one.length == other.length for one, other in pairs)
        alike = sum(one.trace == other.trace for one, other in pairs)
        yield (
            f"{a} and {b} have the same weights: of {len(pairs)} common seeds {otherwise} ended otherwise, "
            f"{as_long} took the same number of steps, {alike} are equal bit for bit."
        )


def _simulation_notes(methods: Mapping[str, Sequence[Evaluation]]) -> Iterator[str]:
    """A sentence where the evaluations were simulated by different simulators."""
    found: dict[str, dict[str, None]] = {}  # by simulation, the methods that had it
    for label, runs in methods.items():
        for run in runs:
            found.setdefault(run.rollout.get("simulation", "unknown"), {})[label] = None
    if len(found) > 1:
        named = ", ".join(
            f"{simulation} ({', '.join(labels)})" for simulation, labels in sorted(found.items())
        )
        yield f"Evaluated in different simulations: {named}. Episodes may differ for that alone."


def _version_notes(methods: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """A sentence for each package of which the evaluations were made with different versions."""
    versions: dict[str, dict[str, list[str]]] = {}  # by package, by version, the methods that had it
    for label, runs in methods.items():
        for package in {name for others in methods.values() for run in others for name in run.versions}:
            for run in runs:
                labels = versions.setdefault(package, {}).setdefault(run.versions.get(package, "unknown"), [])
                if label not in labels:
                    labels.append(label)
    return [
        f"Evaluated with different versions of {package}: "
        + ", ".join(f"{version} ({', '.join(labels)})" for version, labels in sorted(found.items()))
        + ". Episodes may differ for that alone."
        for package, found in sorted(versions.items())
        if len(found) > 1
    ]
