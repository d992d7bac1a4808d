import h5py
import numpy as np
import pytest
import torch

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.tasks import get_task
from fibo_robot.policies.data.dataset import DemonstrationDataset
from fibo_robot.policies.data.hdf5 import Hdf5Source

KEYS = ["agentview_image", "robot0_eef_pos"]


def group(file: h5py.File | h5py.Group, name: str) -> h5py.Group:
    found = file[name]
    assert isinstance(found, h5py.Group)
    return found


def array(file: h5py.File | h5py.Group, name: str) -> h5py.Dataset:
    found = file[name]
    assert isinstance(found, h5py.Dataset)
    return found


def shape_meta(**horizons):
    return get_task("lift").shape_meta(obs_keys=KEYS, **horizons)


def test_a_sample_holds_past_observations_and_future_actions(demonstrations):
    dataset = DemonstrationDataset(
        Hdf5Source(demonstrations), shape_meta(n_obs_steps=2, action_horizon=3), "train"
    )
    assert len(dataset) == 12 + 9 + 15
    batch = dataset.__getitems__([(5, 0), (0, 0), (12 + 8, 0)])
    with h5py.File(demonstrations) as file:
        demo, second = group(file, "data/demo_0"), group(file, "data/demo_1")
        pictures, position = array(demo, "obs/agentview_image"), array(demo, "obs/robot0_eef_pos")
        np.testing.assert_array_equal(batch["obs"]["agentview_image"][0], pictures[4:6].transpose(0, 3, 1, 2))
        np.testing.assert_allclose(batch["obs"]["robot0_eef_pos"][0], position[4:6], rtol=1e-6)
        np.testing.assert_allclose(batch["actions"][0], array(demo, "actions")[5:8], rtol=1e-6)
        # Before the start the first observation is repeated, past the end the last action.
        np.testing.assert_allclose(
            batch["obs"]["robot0_eef_pos"][1], np.repeat(position[:1], 2, axis=0), rtol=1e-6
        )
        last = np.repeat(array(second, "actions")[8:9], 3, axis=0)
        np.testing.assert_allclose(batch["actions"][2], last, rtol=1e-6)
    assert batch["valid"].tolist() == [[True] * 3, [True] * 3, [True, False, False]]


def test_a_sequence_has_an_observation_beside_every_action(demonstrations):
    dataset = DemonstrationDataset(
        Hdf5Source(demonstrations), shape_meta(action_horizon=4), "train", window="sequence"
    )
    batch = dataset.__getitems__([(5, 0), (12 + 6, 0)])
    with h5py.File(demonstrations) as file:
        demo, second = group(file, "data/demo_0"), group(file, "data/demo_1")
        pictures = array(demo, "obs/agentview_image")[5:9].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(batch["obs"]["agentview_image"][0], pictures)
        for row, (source, rows) in enumerate([(demo, [5, 6, 7, 8]), (second, [6, 7, 8, 8])]):
            position, actions = (array(source, key)[:][rows] for key in ("obs/robot0_eef_pos", "actions"))
            np.testing.assert_allclose(batch["obs"]["robot0_eef_pos"][row], position, rtol=1e-6)
            np.testing.assert_allclose(batch["actions"][row], actions, rtol=1e-6)
    assert batch["valid"].tolist() == [[True] * 4, [True, True, True, False]]


def test_another_window_is_refused(demonstrations):
    with pytest.raises(DatasetError, match="past or sequence"):
        DemonstrationDataset(Hdf5Source(demonstrations), shape_meta(), window="future")  # pyright: ignore[reportArgumentType]


def test_no_sample_reaches_into_another_demonstration(demonstrations):
    dataset = DemonstrationDataset(
        Hdf5Source(demonstrations), shape_meta(n_obs_steps=3, action_horizon=5), None
    )
    for index in range(len(dataset)):
        batch = dataset[index]
        demo_of_action = (batch["actions"][0, :, 0] / 0.2 + 1e-4).floor()
        assert (demo_of_action == demo_of_action[0]).all()


def test_actions_beyond_what_the_simulator_executes_are_clipped(demonstrations, tmp_path):
    path = tmp_path / "keyboard.hdf5"
    path.write_bytes(demonstrations.read_bytes())
    with h5py.File(path, "a") as file:
        array(file, "data/demo_3/actions")[:, 1] = [-3.75, -1, -0.5, 0, 0.5, 1, 3.75]
    actions = DemonstrationDataset(Hdf5Source(path), shape_meta(), "valid").actions
    assert actions[:, 1].tolist() == [-1, -1, -0.5, 0, 0.5, 1, 1]


def test_masks_split_training_from_validation(demonstrations):
    assert len(DemonstrationDataset(Hdf5Source(demonstrations), shape_meta(), "valid")) == 7
    assert len(DemonstrationDataset(Hdf5Source(demonstrations), shape_meta(), "train", max_demos=1)) == 12


def test_statistics_cover_exactly_the_chosen_demonstrations(demonstrations):
    statistics = DemonstrationDataset(Hdf5Source(demonstrations), shape_meta(), "valid").statistics()
    assert set(statistics) == {"action", "robot0_eef_pos"}
    assert statistics["action"].shape == (7, 7)
    assert statistics["action"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["data/demo_1/obs"].__delitem__("agentview_image"), "agentview_image"),
        (lambda file: file["mask"].__delitem__("train"), "no mask 'train'"),
        (lambda file: file["data/demo_0"].__delitem__("actions"), "actions"),
        (lambda file: file["data"].attrs.__delitem__("env_args"), "robomimic"),
    ],
)
def test_a_file_that_lacks_something_says_what(demonstrations, tmp_path, change, message):
    path = tmp_path / "changed.hdf5"
    path.write_bytes(demonstrations.read_bytes())
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=message):
        DemonstrationDataset(Hdf5Source(path), shape_meta(), "train")


def test_other_image_sizes_are_refused(demonstrations):
    other = get_task("lift", image_size=96).shape_meta(obs_keys=KEYS)
    with pytest.raises(DatasetError, match=r"agentview_image.*shape"):
        DemonstrationDataset(Hdf5Source(demonstrations), other, "train")


def test_a_truncated_file_is_refused(demonstrations, tmp_path):
    path = tmp_path / "truncated.hdf5"
    path.write_bytes(demonstrations.read_bytes()[:5000])
    with pytest.raises(DatasetError, match="truncated"):
        DemonstrationDataset(Hdf5Source(path), shape_meta(), "train")
