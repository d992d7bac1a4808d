"""Worlds in which the simulation broke down: found after every control step, named, and dumped."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fibo_robot.envs.simulation.object_state import SCENE_OBJECTS
from fibo_robot.envs.warp.physics.worlds import Physics
from fibo_robot.files import replace_atomically

FaultKind = Literal["contacts", "constraints", "not_finite", "workspace"]
# In order of rank, worst last; a world's code is the position, counted from 1.
_KINDS: tuple[FaultKind, ...] = ("workspace", "contacts", "constraints", "not_finite")
# Metres from the world's origin. An object that is knocked off the table comes to lie on the floor within two
# or three; what is further away was flung there by a solver that did not converge, or fell through the floor.
_REACH, _LOWEST = 5.0, -0.5


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


def find_faults(physics: Physics) -> Tensor:
    """What is wrong with each world after a control step: int8 `(W,)`, 0 where nothing is.

    Contacts beyond the shared pool are dropped whosever they are, so then every world is suspect.
    """
    scene, peaks, data = physics.scene, physics.peaks, physics.data
    objects = SCENE_OBJECTS[physics.export.settings["env_name"]]
    moving = [scene.position(*of.element) for of in objects]
    moving += [scene.site_pos[:, arm.eef_site] for arm in physics.export.arms]
    positions = torch.stack(moving, 1)
    everything = torch.cat([scene.qpos, scene.qvel, physics.actions], 1)
    found = {
        "workspace": ((positions.norm(dim=-1) > _REACH) | (positions[..., 2] < _LOWEST)).any(1),
        "contacts": (peaks.contacts > data.naconmax).expand(len(positions)),
        "constraints": (peaks.constraints > data.njmax) | (peaks.nonzeros > data.njmax_nnz),
        "not_finite": ~everything.isfinite().all(1),
    }
    codes = torch.zeros(len(positions), dtype=torch.int8, device=positions.device)
    for rank, kind in enumerate(_KINDS, start=1):
        codes.masked_fill_(found[kind], rank)  # does not wait for the device
    return codes


def record_fault(
    physics: Physics, code: int, world: int, seed: int | None, step: int, before: Tensor, folder: Path
) -> Fault:
    """Name what :func:`find_faults` found in a world, and write its state to a file.

    The file is an npz of flat states `before` and `after` the step, the `action` `(A,)`, what the actuators
    were told (`control`), and `notes` in JSON.

    Args:
        physics: the worlds, after the step.
        code: as found.
        world: which.
        seed: of its episode.
        step: of its episode, counted from 1.
        before: all worlds' flat states before the step.
        folder: for the file.
    """
    kind = _KINDS[code - 1]
    message = explain(physics, kind, world)
    path = folder / f"seed_{seed}_step_{step}_{kind}.npz"
    notes = {"seed": seed, "step": step, "kind": kind, "message": message}
    rows = {
        "before": before[world],
        "after": physics.states()[world],
        "action": physics.actions[world],
        "control": physics.controls()[world],
    }
    arrays: dict[str, Any] = {name: row.cpu().numpy() for name, row in rows.items()}
    with replace_atomically(path) as temporary:
        np.savez_compressed(
            temporary,
            notes=np.array(json.dumps({**notes, "settings": dict(physics.export.settings)})),
            **arrays,
        )
    return Fault(world, seed, step, kind, message, path)


def explain(physics: Physics, kind: FaultKind, world: int) -> str:
    """One sentence for a report."""
    data, peaks = physics.data, physics.peaks
    if kind == "contacts":
        return (
            f"The worlds had {int(peaks.contacts)} contacts or candidates together, with room for "
            f"{data.naconmax}: some were dropped, in whichever world."
        )
    if kind == "constraints":
        return (
            f"The world had {int(peaks.constraints[world])} constraints, with room for {data.njmax}: "
            "some were dropped."
        )
    if kind == "workspace":
        return f"The hand or an object was more than {_REACH:g} m away, or under the floor."
    if not bool(physics.actions[world].isfinite().all()):
        return "Its action was not finite."
    return "Its state was not finite any more."
