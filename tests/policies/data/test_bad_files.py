"""What would spoil training is said before it starts, in a sentence that names the demonstration."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.policies.data.module import DemonstrationData

KEYS = ["agentview_image", "robot0_eef_pos"]
Change = Callable[[h5py.File], object]


@pytest.fixture
def changed(demonstrations: Path, tmp_path: Path) -> Callable[[Change], DemonstrationData]:
    """Data of a file in which something was changed."""

    def make(change: Change) -> DemonstrationData:
        path = tmp_path / "changed.hdf5"
        path.write_bytes(demonstrations.read_bytes())
        with h5py.File(path, "a") as file:
            change(file)
        return DemonstrationData(str(path), KEYS)

    return make


def put(name: str, values: np.ndarray | None) -> Change:
    """Replace an array, or remove it."""

    def change(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return change


def nan_position(file: h5py.File) -> None:
    file["data/demo_2/obs/robot0_eef_pos"][7, 1] = np.nan  # pyright: ignore


def nan_action(file: h5py.File) -> None:
    file["data/demo_1/actions"][4, 0] = np.inf  # pyright: ignore


def empty(file: h5py.File) -> None:
    demo = file["data/demo_1"]
    arrays: list[str] = []
    demo.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)  # pyright: ignore
    for name in arrays:
        shape = demo[name].shape  # pyright: ignore
        del demo[name]  # pyright: ignore
        demo[name] = np.zeros((0, *shape[1:]))  # pyright: ignore


def repeat(file: h5py.File) -> None:
    file.copy("data/demo_0", "data/demo_9")
    put("mask/train", np.array([b"demo_0", b"demo_1", b"demo_9"]))(file)


def shorter_meant(file: h5py.File) -> None:
    """What the expert meant, a step less than what was executed: every later step would be misaligned."""
    for demo in file["data"].values():  # pyright: ignore
        demo["expert_actions"] = demo["actions"][: -1 if demo.name == "/data/demo_1" else None]


def absolute_in_one(file: h5py.File) -> None:
    file["data/demo_1/actions"][:, 3:6] = [3.1, 0.1, 0.1]  # pyright: ignore


def another_controller(file: h5py.File) -> None:
    data = file["data"]
    env_args = json.loads(str(data.attrs["env_args"]))
    env_args["env_kwargs"]["controller_configs"][0]["body_parts"]["right"]["kp"] = 300
    data.attrs["env_args"] = json.dumps(env_args)


def two_robots(file: h5py.File) -> None:
    data = file["data"]
    env_args = json.loads(str(data.attrs["env_args"]))
    first = env_args["env_kwargs"]["controller_configs"][0]
    env_args["env_kwargs"]["controller_configs"] = [first, {**first, "type": "WHOLE_BODY"}]
    data.attrs["env_args"] = json.dumps(env_args)


def test_actions_to_imitate_are_one_for_each_step(changed: Callable[[Change], DemonstrationData]) -> None:
    data = changed(shorter_meant)
    data.action_key = "expert_actions"
    with pytest.raises(DatasetError, match="demo_1 has 9 actions but 8 rows of expert_actions"):
        data.setup("fit")


@pytest.mark.parametrize("count", [0, -1])
def test_no_demonstrations_are_asked_for_by_mistake(demonstrations: Path, count: int) -> None:
    with pytest.raises(
        DatasetError, match=f"max_demos must be a whole number of at least 1, or null for all, not {count}"
    ):
        DemonstrationData(str(demonstrations), KEYS, max_demos=count)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (nan_position, r"demo_2 of .* values of robot0_eef_pos that are not finite, first at step 7; remove"),
        (nan_action, r"demo_1 of .* has actions that are not finite, first at step 4; remove"),
        (empty, r"demo_1 of .* has no steps; remove"),
        (repeat, r"demo_9 of .*changed.hdf5 repeats demo_0, step by step; remove one"),
        (
            put("mask/train", np.array([b"demo_1", b"demo_0", b"demo_1"])),
            "train of .* names demo_1 more than",
        ),
        (
            put("data/demo_2/obs/agentview_image", None),
            r"demo_2 of .* has no 'obs/agentview_image'; it has: ",
        ),
        (
            put("data/demo_1/obs/agentview_image", np.zeros((9, 64, 64, 3), np.uint8)),
            r"demo_1 of .*'agentview_image' has shape \(64, 64, 3\), the task wants \(84, 84, 3\)",
        ),
        (
            put("data/demo_1/obs/agentview_image", np.zeros((9, 84, 84, 3), np.float32)),
            r"agentview_image of demo_1 in .* holds float32 numbers where pictures are uint8",
        ),
        (put("data/demo_1/actions", np.zeros((9, 6))), r"demo_1 of .* shape \(6,\), the task takes \(7,\)"),
        (
            absolute_in_one,
            r"actions are delta, but those of demo_1 are absolute poses: .* 1 of 3 demonstrations",
        ),
        (another_controller, r"env_args of .* name two controllers"),
        (two_robots, r"robots of .* have different controllers"),
    ],
)
def test_what_would_spoil_training_is_named(
    changed: Callable[[Change], DemonstrationData], change: Change, sentence: str
) -> None:
    data = changed(change)
    with pytest.raises(DatasetError, match=sentence) as refused:
        data.setup("fit")
    assert "\n" not in str(refused.value)


def test_equal_actions_in_other_scenes_are_no_repetition(
    changed: Callable[[Change], DemonstrationData],
) -> None:
    """What a camera sees tells them apart, though neither actions nor the arm do."""

    def same_motion(file: h5py.File) -> None:
        repeat(file)
        file["data/demo_9/obs/agentview_image"][0] = 0  # pyright: ignore

    data = changed(same_motion)
    data.setup("fit")
    assert data.train is not None and data.train.demos == ["demo_0", "demo_1", "demo_9"]


def test_demonstrations_in_both_masks_are_warned_of(changed: Callable[[Change], DemonstrationData]) -> None:
    data = changed(put("mask/valid", np.array([b"demo_2", b"demo_3"])))
    with pytest.warns(UserWarning, match="1 demonstrations of .* are for training and for validation"):
        data.setup("fit")


def test_start_states_are_known_by_their_seeds_where_this_package_recorded_them(
    changed: Callable[[Change], DemonstrationData],
) -> None:
    def recorded(file: h5py.File) -> None:
        data = file["data"]
        env_args = json.loads(str(data.attrs["env_args"]))
        env_args["fibo_robot"]["recording"] = {"seed": 7}
        data.attrs["env_args"] = json.dumps(env_args)
        for number in range(4):
            file[f"data/demo_{number}"].attrs["seed"] = 10 - number

    def recorded_but_for_one(file: h5py.File) -> None:
        recorded(file)
        del file["data/demo_1"].attrs["seed"]  # pyright: ignore

    data = changed(recorded)
    data.setup("fit")
    assert data.meta()["dataset"]["seeds"] == [8, 9, 10]  # of those to train on
    data.teardown("fit")
    merged = changed(recorded_but_for_one)
    merged.setup("fit")
    assert merged.meta()["dataset"]["seeds"] == [8, 10]
    merged.teardown("fit")
    foreign = changed(lambda file: file["data/demo_0"].attrs.__setitem__("seed", 3))
    foreign.setup("fit")
    assert foreign.meta()["dataset"]["seeds"] == []


def test_one_process_of_a_run_looks_into_every_demonstration(
    changed: Callable[[Change], DemonstrationData], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check = DemonstrationFile.check
    monkeypatch.setattr(
        DemonstrationFile,
        "check",
        lambda self, demos, *more: (checked.extend(demos), check(self, demos, *more)),
    )
    for rank, expected in ((1, []), (0, ["demo_0", "demo_1", "demo_2", "demo_3"])):
        monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", rank)
        changed(lambda file: None).setup("fit")
        assert checked == expected
