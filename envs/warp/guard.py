"""Worlds in which the simulation broke down: found after every control step, named, and dumped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FaultKind = Literal["contacts", "constraints", "not_finite", "workspace"]


@dataclass(frozen=True)
class Fault:
    """What went wrong in a world's episode.

    Attributes:
        world: its index.
        seed: of its episode.
        step: control step, counted from 1, in which it was noticed.
        kind: `contacts` or `constraints`: more than there was room for, so some were dropped; `not_finite`;
            `workspace`: the hand or an object left it.
        message: one sentence for a report.
        dump: file with the world's state, for debugging.
    """

    world: int
    seed: int | None
    step: int
    kind: FaultKind
    message: str
    dump: Path | None
