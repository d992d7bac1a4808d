"""A world that breaks down is noticed, named and dumped, harms no other, and is usable again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.start_states import StartState, StartStates
from fibo_robot.envs.warp.guard import Fault
from fibo_robot.envs.warp.physics.capacity import Capacity
from fibo_robot.envs.warp.task import WarpTask
from tests.envs.warp.conftest import LIFT

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]  # Warp compiles its kernels


def moved(worlds: WarpTask, start: StartState, world: int, **entries: float) -> None:
    """Begin an episode of `start` with some entries of its state changed."""
    state = start.scene["state"].copy()
    for name, value in entries.items():
        state[int(name.removeprefix("entry"))] = value
    changed = StartState(start.seed, {**start.scene, "state": state}, start.object_positions)
    worlds.start_from([changed], [world])


def the_fault(worlds: WarpTask, world: int) -> Fault:
    assert set(worlds.faults) == {world}
    return worlds.faults[world]


def test_a_world_that_is_not_finite_is_set_aside_and_the_others_go_on(
    worlds: WarpTask, lift_starts: StartStates
) -> None:
    actions = torch.full((3, 7), 0.5)
    worlds.advance(actions)
    undisturbed = worlds.states()[1]
    worlds.start([0, 1])
    actions[0, 2] = torch.nan
    info = worlds.advance(actions)
    assert info["valid"].tolist() == [False, True, True] and not info["success"].any()
    fault = the_fault(worlds, 0)
    assert (fault.seed, fault.step, fault.kind, fault.message) == (
        0,
        1,
        "not_finite",
        "Its action was not finite.",
    )
    np.testing.assert_array_equal(worlds.states()[1], undisturbed)
    assert worlds.states().isfinite().all()
    # It stays set aside, and its next episode is as if nothing had been.
    assert worlds.advance(torch.full((3, 7), 0.5))["valid"].tolist() == [False, True, True]
    assert worlds.info()["elapsed"].tolist()[:2] == [1, 2]
    worlds.start([1], [0])
    assert not worlds.faults
    info = worlds.advance(torch.full((3, 7), 0.5))
    assert info["valid"].all()
    np.testing.assert_allclose(worlds.states()[0], undisturbed, atol=1e-6)


def test_the_state_of_a_broken_world_is_kept_for_debugging(
    worlds: WarpTask, lift_starts: StartStates
) -> None:
    actions = torch.zeros(3, 7)
    actions[1] = torch.inf
    actions[1, 0] = torch.nan
    worlds.advance(actions)
    dump = the_fault(worlds, 1).dump
    assert dump is not None
    with np.load(dump, allow_pickle=False) as file:
        np.testing.assert_allclose(file["before"][1:], lift_starts[1].scene["state"][1:], atol=1e-6)
        assert np.isnan(file["action"][0]) and file["control"].shape == (9,)
        notes = json.loads(str(file["notes"]))
    assert (notes["seed"], notes["kind"], notes["settings"]["env_name"]) == (1, "not_finite", "Lift")


def test_an_object_far_away_is_noticed(worlds: WarpTask, lift_starts: StartStates) -> None:
    moved(worlds, lift_starts[0], 0, entry10=7.0)
    worlds.advance(torch.zeros(3, 7))
    fault = the_fault(worlds, 0)
    assert fault.kind == "workspace" and "more than 5 m away" in fault.message


def test_too_many_constraints_and_contacts_are_noticed(
    lift_export: TaskExport, lift_starts: StartStates, tmp_path: Path
) -> None:
    small = WarpTask(LIFT, 2, "cpu", export=lift_export, start_states=lift_starts, capacity=Capacity(100, 10))
    small.dumps = tmp_path
    small.start([0, 1])
    # Nine rows are the joints' own friction. World 1's cube stands on the table, with rows for every contact;
    # world 0's falls beside the table.
    moved(small, lift_starts[0], 0, entry11=0.6, entry12=1.2)
    assert small.advance(torch.zeros(2, 7))["valid"].tolist() == [True, False]
    assert the_fault(small, 1).kind == "constraints" and "with room for 10" in small.faults[1].message
    # Contacts share a pool: when it is full, nobody knows whose were dropped.
    small.data.naconmax = 1
    assert small.advance(torch.zeros(2, 7))["valid"].tolist() == [False, False]
    assert small.faults[0].kind == "contacts"
    assert "with room for 1: some were dropped, in whichever world" in small.faults[0].message
    assert {path.name for path in tmp_path.iterdir()} == {
        "seed_1_step_1_constraints.npz",
        "seed_0_step_2_contacts.npz",
    }
