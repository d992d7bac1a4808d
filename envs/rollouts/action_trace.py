"""What a policy did step by step, kept for the episodes that are filmed: its actions, and how sure it was.

Behaviour cloning has no value function. What its mixture head has in place of one is how far its
possible actions lie apart; both numbers are read off the head's own output while it decides.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn
from torch.distributions import MixtureSameFamily

from fibo_robot.envs.errors import EvaluationError
from fibo_robot.files import write_json
from fibo_robot.interfaces import Policy

ACTION_TRACE_FOLDER = "action_traces"


@dataclass(frozen=True)
class ActionTrace:
    """One episode, step by step.

    Attributes:
        seed: the episode's.
        n_action_steps: control steps per decision; decision i comes before step `i * n_action_steps`.
        actions: the executed ones `(T, A)`, as the policy gave them; the environment clips to [-1, 1].
        decisions: numbers about every decision, by name; NaN where one was not finite.
            `spread`: standard deviation of the mixture's actions, root mean square over the executed steps
            and dimensions, in normalised units (1 is half the range of the demonstrated actions).
            `modes`: exp of the entropy of the mixture's weights: 1 where one way to go on is certain, the
            number of components where all are equally likely.
    """

    seed: int
    n_action_steps: int
    actions: np.ndarray
    decisions: Mapping[str, np.ndarray]

    @property
    def chunks(self) -> list[np.ndarray]:
        """The actions of each decision, `(n_action_steps, A)`; the last may have been cut short."""
        return [
            self.actions[begin : begin + self.n_action_steps]
            for begin in range(0, len(self.actions), self.n_action_steps)
        ]

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically; OSError where it cannot be written."""
        decisions = {
            name: [value if math.isfinite(value) else None for value in values.tolist()]
            for name, values in self.decisions.items()
        }
        content = {
            "seed": self.seed,
            "n_action_steps": self.n_action_steps,
            "actions": self.actions.tolist(),
            "decisions": decisions,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path | str) -> "ActionTrace":
        """Read what :meth:`save` wrote.

        Raises:
            EvaluationError: the file is missing or is no action trace.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                seed=values["seed"],
                n_action_steps=values["n_action_steps"],
                actions=np.array(values["actions"], np.float32),
                decisions={
                    name: np.array(row, np.float64)  # None becomes NaN
                    for name, row in values["decisions"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(f"{path} cannot be read as an action trace ({error}).") from error


def action_trace_name(seed: int) -> str:
    """File name of a seed's action trace: `seed_000007.json`."""
    return f"seed_{seed:06d}.json"


@dataclass
class _Running:
    """An action trace in the making."""

    chunks: list[np.ndarray] = field(default_factory=list)
    measures: list[dict[str, float]] = field(default_factory=list)


class ActionTraceRecorder:
    """Collects the actions of some seeds' episodes while they run.

    Args:
        seeds: whose; other episodes cost nothing.
        n_action_steps: control steps per decision.
    """

    def __init__(self, seeds: Collection[int], n_action_steps: int) -> None:
        self._seeds, self._n_action_steps = frozenset(seeds), n_action_steps
        self._running: dict[int, _Running] = {}

    def begin(self, seed: int) -> None:
        """An episode begins, perhaps once more."""
        if seed in self._seeds:
            self._running[seed] = _Running()

    @contextmanager
    def watch(self, policy: Policy, episodes: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Give a dict that holds the numbers about `episodes` (see :class:`ActionTrace`) after `policy.act`.

        They are read where `policy.head` is a module that returns a mixture over action chunks `(H, A)`;
        other policies give none. The decision itself is left alone.
        """
        measures: dict[str, np.ndarray] = {}
        head = getattr(policy, "head", None)
        if self._seeds.isdisjoint(episodes) or not isinstance(head, nn.Module):
            yield measures
            return

        def measure(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, MixtureSameFamily) and len(output.event_shape) == 2:
                variance = output.variance[:, : self._n_action_steps]
                measures["spread"] = variance.mean((1, 2)).sqrt().cpu().numpy()
                measures["modes"] = output.mixture_distribution.entropy().exp().cpu().numpy()

        handle = head.register_forward_hook(measure)
        try:
            yield measures
        finally:
            handle.remove()

    def add(self, seed: int, chunk: np.ndarray, measures: Mapping[str, np.ndarray], row: int) -> None:
        """A decision: its actions `(n_action_steps, A)`, and its row of the batch's `measures`."""
        if seed in self._running:
            running = self._running[seed]
            running.chunks.append(chunk)
            running.measures.append({name: float(values[row]) for name, values in measures.items()})

    def finish(self, seed: int, length: int) -> ActionTrace | None:
        """What was done in an episode of `length` steps; None for a seed not asked for, or no step."""
        running = self._running.pop(seed, None)
        if running is None or length == 0:
            return None
        rows = running.measures[: math.ceil(length / self._n_action_steps)]
        return ActionTrace(
            seed=seed,
            n_action_steps=self._n_action_steps,
            actions=np.concatenate(running.chunks)[:length],
            decisions={name: np.array([row[name] for row in rows]) for name in rows[0]},
        )
