"""One export and one set of worlds for all tests here: Warp compiles its kernels when worlds first move."""

from collections.abc import Iterator

import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.from_robosuite import export_task
from fibo_robot.envs.warp.exporting.start_states import StartStates
from fibo_robot.envs.warp.task import WarpTask

LIFT = get_task("lift", cameras=())


@pytest.fixture(scope="session")
def lift() -> Iterator[SimulationEnv]:
    """robosuite itself, the truth."""
    env = LIFT.make_env()
    yield env
    env.close()


@pytest.fixture(scope="session")
def lift_export() -> TaskExport:
    return export_task(LIFT)


@pytest.fixture(scope="session")
def lift_starts(tmp_path_factory: pytest.TempPathFactory) -> StartStates:
    starts = StartStates(LIFT, tmp_path_factory.mktemp("starts") / "starts.npz")
    starts.ensure(range(8))
    return starts


@pytest.fixture(scope="session")
def all_worlds(
    lift_export: TaskExport, lift_starts: StartStates, tmp_path_factory: pytest.TempPathFactory
) -> WarpTask:
    worlds = WarpTask(LIFT, 3, "cpu", export=lift_export, start_states=lift_starts)
    worlds.dumps = tmp_path_factory.mktemp("faults")
    return worlds


@pytest.fixture
def worlds(all_worlds: WarpTask) -> WarpTask:
    """Three worlds of Lift, of which the first two run seeds 0 and 1."""
    all_worlds.start([0, 1])
    return all_worlds
