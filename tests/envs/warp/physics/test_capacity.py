"""What worlds are said to take is what Warp's allocator hands out; there is the room that was measured."""

import json

import pytest

from fibo_robot.benchmarks.simulation.memory import bytes_taken
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.start_states import StartStates
from fibo_robot.envs.warp.physics.capacity import CAPACITIES, Memory, few_worlds, memory_needed
from tests.capabilities import REPOSITORY
from tests.envs.warp.conftest import LIFT

MEASURED = REPOSITORY / "docs" / "results" / "warp-worlds-cpu.json"


@pytest.mark.sim
@pytest.mark.warp
@pytest.mark.slow  # Warp compiles its kernels
def test_the_estimate_holds_what_is_allocated_and_little_more(
    lift_export: TaskExport, lift_starts: StartStates
) -> None:
    lift_starts.ensure(range(16))
    few, many = (bytes_taken(LIFT, worlds, lift_export, lift_starts) for worlds in (8, 16))
    estimate = memory_needed(lift_export.mujoco_model(), CAPACITIES["Lift"])
    taken = many - few
    assert taken <= estimate.of(16) - estimate.of(8) <= 1.5 * taken
    assert few <= estimate.of(8)


def test_every_task_has_the_room_and_the_estimate_that_were_measured() -> None:
    rows = {row["env_name"]: row for row in json.loads(MEASURED.read_text())["rows"]}
    assert set(rows) == set(CAPACITIES)
    for name, capacity in CAPACITIES.items():
        row = rows[name]
        assert row["room"] == {"contacts": capacity.contacts, "constraints": capacity.constraints}
        for used in row["used"].values():
            assert 2 * used["contacts"] <= capacity.contacts, name
            assert 2 * used["constraints"] <= capacity.constraints, name
        assert 1.0 <= row["estimated_bytes_per_world"] / row["bytes_per_world"] <= 1.5, name


def test_as_many_worlds_are_offered_as_fit_with_their_small_batch() -> None:
    memory = Memory(1000, 10)
    assert [few_worlds(count) for count in (1, 7, 8, 16, 8192)] == [0, 0, 1, 2, 256]
    for free in (999, 1000, 1009, 1010, 1079, 1080, 1090, 5000):
        most = memory.most_worlds(free)
        assert memory.of(most + 1) > free and (most == 0 or memory.of(most) <= free)
