"""Few worlds that begin anew get, bit for bit, what computing all worlds gives; others are not touched."""

import dataclasses
from typing import Any

import mujoco_warp as mjw
import numpy as np
import pytest
import torch
import warp as wp

from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.start_states import StartStates
from fibo_robot.envs.warp.physics.capacity import few_worlds
from fibo_robot.envs.warp.task import WarpTask
from tests.envs.warp.conftest import LIFT

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]  # Warp compiles its kernels
WORLDS, FEW = 6, 2
CONTACT = 5  # `mjCNSTR_CONTACT_FRICTIONLESS`: constraints of this type and above are contacts


def snapshot(worlds: WarpTask) -> dict[str, Any]:
    """Everything in the batch by name, contacts by world: where in the pool they lie is nobody's business."""
    data = worlds.data
    arrays: dict[str, Any] = {}
    for owner, prefix in ((data, ""), (data.efc, "efc.")):
        for field in dataclasses.fields(owner):
            array = getattr(owner, field.name)
            if isinstance(array, wp.array) and array.size and array.shape[0] == data.nworld:
                arrays[prefix + field.name] = array.numpy().copy()
    count = int(data.nacon.numpy()[0])
    contact = {
        field.name: getattr(data.contact, field.name).numpy() for field in dataclasses.fields(data.contact)
    }
    owners = contact.pop("worldid")
    rows = [b"".join(array[slot].tobytes() for array in contact.values()) for slot in range(count)]
    arrays["contacts"] = [
        sorted(rows[slot] for slot in range(count) if owners[slot] == world) for world in range(data.nworld)
    ]
    # A contact's constraints name its slot: look up what lies there.
    slots, types, used = arrays.pop("efc.id"), arrays["efc.type"], arrays["nefc"]
    arrays["named"] = [
        [rows[slot] for slot in slots[world, : used[world]][types[world, : used[world]] >= CONTACT]]
        for world in range(data.nworld)
    ]
    for world in range(data.nworld):
        named = slots[world, : used[world]][types[world, : used[world]] >= CONTACT]
        assert (owners[named] == world).all()
    return arrays


def differing(one: dict[str, Any], other: dict[str, Any], worlds: list[int]) -> list[str]:
    return [
        name
        for name, value in one.items()
        if any(
            not np.array_equal(value[world], other[name][world], equal_nan=True)
            if isinstance(value, np.ndarray)
            else value[world] != other[name][world]
            for world in worlds
        )
    ]


@pytest.fixture(scope="module")
def six(lift_export: TaskExport, lift_starts: StartStates) -> WarpTask:
    """Six worlds, of which two begin anew apart: so many would, of six."""
    assert few_worlds(8 * FEW) == FEW
    lift_starts.ensure(range(12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fibo_robot.envs.warp.physics.worlds.few_worlds", lambda num_worlds: FEW)
        worlds = WarpTask(LIFT, WORLDS, "cpu", export=lift_export, start_states=lift_starts)
    worlds.start(range(WORLDS))
    return worlds


def check_restarts(worlds: WarpTask, choices: list[list[int]]) -> None:
    generator = np.random.default_rng(0)
    for number, chosen in enumerate(choices):
        actions = torch.from_numpy(generator.uniform(-1, 1, (WORLDS, worlds.task.action.dim)))
        for _ in range(2):
            assert worlds.advance(actions)["valid"].all()
        before = snapshot(worlds)
        worlds.start([6 + number + world for world in range(len(chosen))], chosen)
        after = snapshot(worlds)
        others = [world for world in range(WORLDS) if world not in chosen]
        assert not differing(after, before, others)
        assert {"qpos", "xpos", "M", "qfrc_bias", "efc.J"} <= set(differing(after, before, chosen))
        worlds._physics.refresh()
        assert not differing(after, snapshot(worlds), list(range(WORLDS)))


def test_a_small_batch_computes_what_all_worlds_would(six: WarpTask) -> None:
    few = six._physics._few
    assert few is not None and few.size == FEW
    check_restarts(six, [[5], [3, 1], [0], [4, 5]])  # the first launches and records, the others replay
    # An episode then goes on as one that began with all worlds computed.
    six.start([7], [3])
    six.advance(torch.full((WORLDS, 7), 0.3))
    small = six.states()[3]
    six.start([7], [3])
    six._physics.refresh()
    six.advance(torch.full((WORLDS, 7), 0.3))
    assert torch.equal(six.states()[3], small)


def test_slots_that_stay_empty_are_no_contacts_of_any_world(six: WarpTask) -> None:
    physics = six._physics
    press = torch.tensor([0.5, 0.3, -1.0, 0.0, 0.0, 0.0, 1.0]).expand(WORLDS, 7)
    for _ in range(20):  # the fingers slide on the table
        assert six.advance(press)["valid"].all()
    six.start([6], [0])
    owners, count = physics.data.contact.worldid.numpy(), int(physics.data.nacon.numpy()[0])
    assert (owners[:count] == -1).any()
    state = {name: view.clone() for name, view in physics._state.items()}

    def accelerations() -> torch.Tensor:
        mjw.step2(physics.model, physics.data)
        found = wp.to_torch(physics.data.qacc).clone()
        for name, view in physics._state.items():
            view.copy_(state[name])
        physics.refresh()
        return found

    apart = accelerations()
    assert torch.equal(apart, accelerations())


def test_contacts_that_do_not_fit_are_computed_with_all_worlds(
    six: WarpTask, lift_starts: StartStates
) -> None:
    few = six._physics._few
    assert few is not None
    room = few._few.naconmax
    expected = snapshot(six)
    few._few.naconmax = 1
    try:
        six.start([8], [2])
    finally:
        few._few.naconmax = room
    after = snapshot(six)
    assert not differing(after, expected, [world for world in range(WORLDS) if world != 2])
    six._physics.refresh()
    assert not differing(after, snapshot(six), list(range(WORLDS)))


def test_a_start_with_too_many_contacts_is_noticed_in_its_first_step(worlds: WarpTask) -> None:
    """Its first physics step is computed without those that were dropped."""
    wp.to_torch(worlds.data.nacon).fill_(worlds.data.naconmax + 1)  # MuJoCo Warp counts what it drops, too
    assert worlds.advance(torch.zeros(3, 7))["valid"].tolist() == [False, False, True]
    assert {fault.kind for fault in worlds.faults.values()} == {"contacts"}
