"""Episodes begin where robosuite begins them, and computed start states are kept."""

from pathlib import Path

import numpy as np
import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.rollouts.engine import scene_digest
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting import start_states
from fibo_robot.envs.warp.exporting.start_states import StartStates
from tests.envs.warp.conftest import LIFT

pytestmark = [pytest.mark.sim, pytest.mark.warp]


def test_a_start_state_is_robosuites_own_bit_for_bit(lift: SimulationEnv, lift_starts: StartStates) -> None:
    again = StartStates(LIFT, lift_starts.path)  # from the file
    for seed in (0, 5):
        lift.start(seed)
        assert again[seed].digest == scene_digest(lift.scene())
        np.testing.assert_array_equal(again[seed].scene["cube_size"], lift.scene()["cube_size"])
        np.testing.assert_array_equal(again[seed].object_positions["cube"], lift.object_positions()["cube"])
    assert again[0].digest != again[1].digest


def test_an_interrupted_computation_keeps_what_is_done(
    lift: SimulationEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shared(SimulationEnv):
        """The session's environment, which nothing closes."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            self.__dict__ = lift.__dict__

        def close(self) -> None:
            pass

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(start_states, "SimulationEnv", Shared)
    seen: list[tuple[int, int]] = []
    path = tmp_path / "starts.npz"
    with pytest.raises(KeyboardInterrupt):
        StartStates(LIFT, path).ensure([3, 4, 5], interrupt)
    resumed = StartStates(LIFT, path)
    assert (3 in resumed, 4 in resumed, 5 in resumed) == (True, True, False)
    seen.clear()
    resumed.ensure([3, 4, 5], lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]


def test_without_robosuite_missing_seeds_are_named(
    lift_starts: StartStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_states.importlib.util, "find_spec", lambda name: None)
    lift_starts.ensure([0, 7])  # known
    with pytest.raises(WarpError, match=r"lacks the start states of 2 of 3 seeds \(the first is 900\)"):
        lift_starts.ensure([0, 900, 901])


def test_files_that_are_damaged_or_of_another_task_are_refused(
    lift_starts: StartStates, tmp_path: Path
) -> None:
    with pytest.raises(WarpError, match="start states of another task than lift"):
        StartStates(get_task("lift", control_freq=10), lift_starts.path)
    damaged = tmp_path / "starts.npz"
    damaged.write_bytes(lift_starts.path.read_bytes()[:200])
    with pytest.raises(WarpError, match="cannot be read as start states"):
        StartStates(LIFT, damaged)
