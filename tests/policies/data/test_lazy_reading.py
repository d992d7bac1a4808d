"""Pictures are read when a batch needs them: the samples of a file in memory, without its memory."""

import gc
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.tasks import get_task
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.policies.data import hdf5
from fibo_robot.policies.data.dataset import DemonstrationDataset
from fibo_robot.policies.data.hdf5 import Hdf5Source
from fibo_robot.training.checkpoint import load_checkpoint
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.training.sampler import StepSampler

CAMERAS = ["agentview_image", "robot0_eye_in_hand_image"]
KEYS = [*CAMERAS, "robot0_eef_pos"]
# How pictures may lie in a file: in one piece, as robomimic writes them; a chunk for each, as recordings here
# have them; compressed in blocks that HDF5 chooses; and in one piece behind a block that is not HDF5's.
LAYOUTS = {
    "one_piece": {},
    "picture_chunks": {"chunks": (1, 84, 84, 3), "compression": "lzf"},
    "blocks": {"compression": "gzip"},
    "user_block": {},
}


def with_layout(demonstrations: Path, path: Path, layout: str) -> Path:
    """The demonstrations with their pictures stored in another way."""
    with (
        h5py.File(demonstrations) as old,
        h5py.File(path, "w", userblock_size=512 if layout == "user_block" else 0) as new,
    ):
        for name in old:
            old.copy(name, new)
        for demo in new["data"].values():  # pyright: ignore[reportAttributeAccessIssue]
            for key in CAMERAS:
                pictures = demo[f"obs/{key}"][:]
                del demo[f"obs/{key}"]
                demo.create_dataset(f"obs/{key}", data=pictures, **LAYOUTS[layout])
    return path


def shape_meta(n_obs_steps: int = 2, action_horizon: int = 4) -> ShapeMeta:
    return get_task("lift").shape_meta(obs_keys=KEYS, n_obs_steps=n_obs_steps, action_horizon=action_horizon)


class Everything:
    """All of a file in memory, and samples of it, written down as plainly as can be."""

    def __init__(self, path: Path, demos: list[str]) -> None:
        self.demos = []
        with h5py.File(path) as file:
            for demo in demos:
                group = file[f"data/{demo}"]
                arrays = {key: group[f"obs/{key}"][:] for key in KEYS}  # pyright: ignore
                self.demos.append((arrays, group["actions"][:]))  # pyright: ignore

    def sample(self, index: int, meta: ShapeMeta, window: Window) -> tuple[dict, np.ndarray, list[bool]]:
        number = 0
        while index >= len(self.demos[number][1]):
            index -= len(self.demos[number][1])
            number += 1
        arrays, actions = self.demos[number]
        steps = [index + ahead for ahead in range(meta.action_horizon)]
        inside = [min(step, len(actions) - 1) for step in steps]
        seen = inside
        if window == "past":
            seen = [max(index - back, 0) for back in reversed(range(meta.n_obs_steps))]
        obs = {key: np.stack([arrays[key][step] for step in seen]) for key in KEYS}
        obs |= {key: obs[key].transpose(0, 3, 1, 2) for key in CAMERAS}
        obs["robot0_eef_pos"] = obs["robot0_eef_pos"].astype(np.float32)
        chosen = np.stack([actions[step] for step in inside]).astype(np.float32)
        return obs, chosen, [step < len(actions) for step in steps]


@pytest.mark.parametrize("window", ["past", "sequence"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_are_those_of_the_whole_file_in_memory(
    demonstrations: Path, tmp_path: Path, layout: str, window: Window
) -> None:
    path = with_layout(demonstrations, tmp_path / "demos.hdf5", layout)
    plain = Everything(path, ["demo_0", "demo_1", "demo_2"])
    stored, loaded = (
        DemonstrationDataset(Hdf5Source(path), shape_meta(), window=window, cache_bytes=room)
        for room in (0, 10**9)
    )
    assert (stored.cached_bytes, loaded.cached_bytes) == (0, 2 * 36 * 84 * 84 * 3)
    for samples in StepSampler(len(stored), 7, 6, seed=1):  # more than one pass
        expected = [plain.sample(index, shape_meta(), window) for index, _ in samples]
        for dataset in (stored, loaded):
            batch = dataset.__getitems__(samples)
            for key in KEYS:
                values = batch["obs"][key]
                assert values.is_contiguous()  # networks round differently over other strides
                np.testing.assert_array_equal(values, np.stack([obs[key] for obs, _, _ in expected]))
            np.testing.assert_array_equal(batch["actions"], np.stack([actions for _, actions, _ in expected]))
            assert batch["valid"].tolist() == [valid for *_, valid in expected]


def overrides(demonstrations: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "experiment=lift_bc",
        f"data.path={demonstrations}",
        f"run_dir={run_dir}",
        "data.obs_keys=[robot0_eye_in_hand_image,robot0_eef_pos]",
        "data.batch_size=4",
        "data.steps_per_epoch=3",
        "policy.head.hidden=[16]",
        "trainer.max_epochs=2",
        "trainer.check_val_every_n_epoch=1",
        "trainer.accelerator=cpu",
        "logger=none",
        *more,
    ]


def test_a_run_is_the_same_wherever_pictures_lie_and_whoever_reads_them(
    demonstrations: Path, tmp_path: Path
) -> None:
    path = with_layout(demonstrations, tmp_path / "demos.hdf5", "picture_chunks")
    settings = {
        "memory": ["data.cache_gb=1"],
        "file": ["data.cache_gb=0", "data.num_workers=0"],
        "workers": ["data.cache_gb=0", "data.num_workers=2"],
    }
    runs = [train_from_overrides(overrides(path, tmp_path / name, *more)) for name, more in settings.items()]
    rows = [json.loads((run / "history.json").read_text()) for run in runs]
    assert rows[0] == rows[1] == rows[2]
    assert {"train/loss", "valid/loss"} <= rows[0][0].keys()
    first, *others = (load_checkpoint(run).state_dict for run in runs)
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)


@pytest.fixture
def stored(demonstrations: Path, tmp_path: Path) -> DemonstrationDataset:
    path = with_layout(demonstrations, tmp_path / "demos.hdf5", "picture_chunks")
    return DemonstrationDataset(Hdf5Source(path), shape_meta())


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_every_process_opens_the_file_for_itself(stored: DemonstrationDataset, context: str) -> None:
    batches = [[(index, 0), (35 - index, 1)] for index in range(8)]
    expected = [stored.__getitems__(batch)["obs"] for batch in batches]  # it is open here, too
    loader = DataLoader(
        stored, batch_sampler=batches, collate_fn=dict, num_workers=1, multiprocessing_context=context
    )
    for found, own in zip(loader, expected, strict=True):
        assert all(torch.equal(found["obs"][key], own[key]) for key in KEYS)


def resident() -> int:
    """Bytes of this process's resident set."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(params=["one_piece", "picture_chunks"])
def large(demonstrations: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """About 64 MB of pictures in 15 demonstrations of 100 steps."""
    path = tmp_path / "large.hdf5"
    with h5py.File(demonstrations) as old, h5py.File(path, "w") as new:
        data = new.create_group("data")
        data.attrs["env_args"] = old["data"].attrs["env_args"]
        pictures = np.concatenate([old["data/demo_2/obs/agentview_image"][:][:5]] * 20)  # pyright: ignore
        for number in range(15):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.random.default_rng(number).uniform(-0.5, 0.5, (100, 7))
            demo["obs/robot0_eef_pos"] = np.zeros((100, 3))
            for key in CAMERAS:
                demo.create_dataset(f"obs/{key}", data=pictures, **LAYOUTS[request.param])
    yield path
    path.unlink()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells a process's memory in /proc")
def test_memory_does_not_grow_with_what_is_read(large: Path) -> None:
    dataset = DemonstrationDataset(Hdf5Source(large), shape_meta(), None)
    pictures = sum(pictures.nbytes for pictures in dataset.pictures.values())
    assert pictures > 60e6
    batches = iter(StepSampler(len(dataset), 32, 60, seed=0))
    for _ in range(10):  # buffers are made, and most arrays are open
        dataset.__getitems__(next(batches))
    before = resident()
    for batch in batches:  # more than one pass over every picture
        dataset.__getitems__(batch)
    assert resident() - before < 16e6


def test_only_so_many_arrays_are_held_open(
    stored: DemonstrationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [(index, 0) for index in range(len(stored))]
    expected = stored.__getitems__(whole)["obs"]["agentview_image"]
    monkeypatch.setattr(hdf5, "_ARRAYS_HELD_OPEN", 2)
    source = pickle.loads(pickle.dumps(stored.source))  # it starts with none
    bounded = DemonstrationDataset(source, shape_meta())
    assert torch.equal(bounded.__getitems__(whole)["obs"]["agentview_image"], expected)
    assert len(source._arrays) == 2


def test_a_file_that_was_replaced_is_not_read_on(stored: DemonstrationDataset, tmp_path: Path) -> None:
    stored.source.close()
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/agentview_image"][0] = 0  # pyright: ignore
    with pytest.raises(DatasetError, match=r"demos\.hdf5 has changed while it was read"):
        stored[0]


def test_damage_among_the_pictures_names_the_demonstration(demonstrations: Path, tmp_path: Path) -> None:
    path = with_layout(demonstrations, tmp_path / "demos.hdf5", "blocks")
    with h5py.File(path) as file:
        place = file["data/demo_1/obs/agentview_image"].id.get_chunk_info(0)  # pyright: ignore
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(bytes(place.size))
    dataset = DemonstrationDataset(Hdf5Source(path), shape_meta())
    with pytest.raises(DatasetError, match=r"agentview_image of demo_1 in .*demos\.hdf5 cannot be read"):
        dataset[12]
