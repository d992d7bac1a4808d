"""Absolute actions keep their metres, and a file that says one kind and holds the other is refused."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.interfaces import ActionSpec
from fibo_robot.policies.data.actions import check_actions
from fibo_robot.policies.data.dataset import DemonstrationDataset
from fibo_robot.policies.data.hdf5 import Hdf5Source

STEPS = 40


def poses(hand: np.ndarray) -> np.ndarray:
    """Targets a few centimetres ahead of a hand that points down."""
    generator = np.random.default_rng(1)
    ahead = hand + generator.normal(0, 0.03, hand.shape)
    turned = np.array([np.pi, 0, 0]) + generator.normal(0, 0.1, hand.shape)
    return np.concatenate([ahead, turned, np.ones((len(hand), 1))], axis=1)


def hand_path(steps: int = STEPS) -> np.ndarray:
    return np.stack([np.linspace(-0.1, 0.1, steps), np.zeros(steps), np.linspace(1.1, 0.85, steps)], axis=1)


def deltas(steps: int = STEPS) -> np.ndarray:
    """As a person with a joystick gives them: no step at rest, some beyond what is executed."""
    return np.random.default_rng(2).normal(0, 0.6, (steps, 7))


def rewrite(demonstrations: Path, path: Path, actions: str, controller: str) -> Path:
    """The demonstrations with other actions, under a controller of this input type."""
    path.write_bytes(demonstrations.read_bytes())
    with h5py.File(path, "a") as file:
        data = file["data"]
        assert isinstance(data, h5py.Group)
        env_args = json.loads(str(data.attrs["env_args"]))
        task = env_args["fibo_robot"]["task"]
        for config in (task["controller"], env_args["env_kwargs"]["controller_configs"][0]):
            config["body_parts"]["right"]["input_type"] = controller
        del task["action"]  # follows from the controller
        data.attrs["env_args"] = json.dumps(env_args)
        for name in data:
            demo = data[name]
            assert isinstance(demo, h5py.Group)
            hand = demo["obs/robot0_eef_pos"]
            given = demo["actions"]
            assert isinstance(hand, h5py.Dataset) and isinstance(given, h5py.Dataset)
            hand[:] = hand_path(len(hand))
            given[:] = poses(hand[:]) if actions == "absolute" else deltas(len(hand))
    return path


def read(path: Path) -> DemonstrationDataset:
    source = Hdf5Source(path)
    return DemonstrationDataset(source, source.task().shape_meta(obs_keys=["robot0_eef_pos"]), None)


def check(actions: np.ndarray, spec: ActionSpec, hand: np.ndarray | None = None) -> np.ndarray:
    """The one demonstration's checked actions."""
    return check_actions(["demo_0"], [actions], spec, "raw.hdf5", None if hand is None else [hand])[0]


def test_absolute_actions_keep_heights_above_a_metre_and_turns_of_pi(
    demonstrations: Path, tmp_path: Path
) -> None:
    path = rewrite(demonstrations, tmp_path / "absolute.hdf5", "absolute", "absolute")
    dataset = read(path)
    with h5py.File(path) as file:
        stored = [file[f"data/demo_{number}/actions"] for number in range(4)]
        expected = np.concatenate([given[:] for given in stored if isinstance(given, h5py.Dataset)])
    np.testing.assert_allclose(dataset.actions, expected, rtol=1e-6)
    assert dataset.actions[:, 2].max() > 1.05 and dataset.actions[:, 3].max() > np.pi
    assert dataset.shape_meta.action == ActionSpec.poses()


@pytest.mark.parametrize(
    ("actions", "controller", "message"),
    [
        (
            "absolute",
            "delta",
            r"says that its actions are delta, but those of demo_0 are absolute poses.*control_delta: false",
        ),
        (
            "delta",
            "absolute",
            r"says that its actions are absolute, but those of demo_0 are deltas.*control_delta: true",
        ),
    ],
)
def test_a_file_of_the_other_kind_is_refused(
    demonstrations: Path, tmp_path: Path, actions: str, controller: str, message: str
) -> None:
    path = rewrite(demonstrations, tmp_path / "mixed.hdf5", actions, controller)
    with pytest.raises(DatasetError, match=message):
        read(path)


def test_standing_still_is_no_pose() -> None:
    resting = deltas()
    resting[7, :6] = 0
    with pytest.raises(DatasetError, match="1 of 40 steps are all zeros"):
        check(resting, ActionSpec.poses())


def test_what_cannot_be_told_for_certain_is_let_through() -> None:
    """Deltas without a rest and without the hand's position; poses of a hand that points forward."""
    assert check(deltas(), ActionSpec.poses()).shape == (STEPS, 7)
    forward = poses(hand_path())
    forward[:, 3:6] = 0.1
    assert check(forward, ActionSpec.deltas()).max() == 1
    # One wild turn of a person does not make a pose of it.
    wild = deltas()
    wild[3, 3:6] = 3.75
    assert check(wild, ActionSpec.deltas(), hand_path()).shape == (STEPS, 7)


def test_actions_that_are_not_numbers_or_of_another_length_are_refused() -> None:
    broken = deltas()
    broken[1, 1] = np.nan
    with pytest.raises(DatasetError, match="not finite"):
        check(broken, ActionSpec.deltas())
    with pytest.raises(DatasetError, match=r"shape \(7,\), the task takes \(14,\)"):
        check(deltas(), ActionSpec.deltas(arms=2))


@pytest.mark.data
def test_the_human_demonstrations_are_deltas(shared_data: Path) -> None:
    with DemonstrationFile(shared_data / "robot" / "lift_panda_human29_raw.hdf5") as file:
        actions = [file.actions(demo) for demo in file.demos]
        checked = check_actions(file.demos, actions, file.task().action, "human.hdf5")
        assert abs(np.concatenate(checked)).max() == 1
        with pytest.raises(DatasetError, match="of demo_0 are deltas"):
            check_actions(file.demos, actions, ActionSpec.poses(), "human.hdf5")
