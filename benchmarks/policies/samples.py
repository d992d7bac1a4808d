"""What `fibo bench data` reads: one file as our samples and as robomimic's, and a large file to read.

All give the same keys, the same horizons and the same numbers: that is checked before anything is timed.
"""

import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.demonstrations.lerobot.layout import open_lerobot
from fibo_robot.files import replace_atomically
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.policies.data.dataset import DemonstrationDataset
from fibo_robot.policies.data.hdf5 import Hdf5Source

Cache = Literal["none", "low_dim", "all"]
Layout = Literal["recorded", "one_piece"]


@dataclass(frozen=True)
class Samples:
    """What all of them read: file, demonstrations, shapes, and batches of so many samples.

    Attributes:
        v3: folder of the same file in LeRobot's format, which is read, too; None without one.
    """

    path: str
    filter_key: str | None
    shape_meta: ShapeMeta
    window: Window
    batch_size: int
    batches: int
    v3: str | None = None


def our_dataset(samples: Samples) -> DemonstrationDataset:
    """Ours, with pictures in the file."""
    return DemonstrationDataset(
        Hdf5Source(samples.path), samples.shape_meta, samples.filter_key, window=samples.window
    )


def v3_dataset(samples: Samples) -> DemonstrationDataset:
    """Ours of LeRobot's format, with pictures in its mp4 files."""
    assert samples.v3 is not None
    return DemonstrationDataset(
        open_lerobot(samples.v3), samples.shape_meta, samples.filter_key, window=samples.window
    )


def robomimic_dataset(samples: Samples, cache: Cache) -> Any:
    """robomimic's dataset of the same samples."""
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    meta = samples.shape_meta
    modalities = {kind: meta.keys(kind) for kind in ("low_dim", "rgb")}
    with redirect_stdout(io.StringIO()):  # it tells much, and JSON may be due there
        obs_utils.initialize_obs_utils_with_obs_specs({"obs": modalities})
        return SequenceDataset(
            hdf5_path=samples.path,
            obs_keys=list(meta.obs),
            dataset_keys=("actions",),
            frame_stack=meta.n_obs_steps if samples.window == "past" else 1,
            seq_length=meta.action_horizon,
            hdf5_cache_mode=None if cache == "none" else cache,
            filter_by_attribute=samples.filter_key,
            load_next_obs=False,
        )


def check_same_samples(samples: Samples, count: int = 16) -> None:
    """Refuse to compare what is not the same: samples from all over the file, number by number.

    Raises:
        BenchmarkError: naming the key.
    """
    ours = our_dataset(samples)
    indices = np.linspace(0, len(ours) - 1, count).astype(int).tolist()
    batches = [ours[index] for index in indices]
    ours.source.close()  # HDF5 does not open a file in two ways at once
    theirs = robomimic_dataset(samples, "none")
    meta = samples.shape_meta
    for index, batch in zip(indices, batches):
        item = theirs[index]
        # Beside a chunk of actions robomimic gives as many further observations, which ours leaves unread.
        seen = slice(0, meta.n_obs_steps) if samples.window == "past" else slice(None)
        first = meta.n_obs_steps - 1 if samples.window == "past" else 0
        expected = {key: item["obs"][key][seen] for key in meta.obs}
        expected |= {key: expected[key].transpose(0, 3, 1, 2) for key in meta.keys("rgb")}
        found = dict(batch["obs"])
        pairs = [(key, found[key][0].numpy(), expected[key]) for key in meta.obs]
        actions = np.clip(item["actions"][first:], meta.action.low, meta.action.high)
        for key, own, other in [*pairs, ("actions", batch["actions"][0].numpy(), actions)]:
            if own.shape != other.shape or not np.allclose(own, other, atol=1e-6):
                raise BenchmarkError(
                    f"{key} of sample {index} is not the same in robomimic: nothing to compare."
                )
    if samples.v3 is not None:
        _check_v3(samples, ours)


def _check_v3(samples: Samples, ours: DemonstrationDataset) -> None:
    """Refuse a folder that was converted from another file; its pictures have been through a codec."""
    theirs = v3_dataset(samples)
    same = ours.actions.equal(theirs.actions) and all(
        values.equal(theirs.vectors[key]) for key, values in ours.vectors.items()
    )
    if not same:
        raise BenchmarkError(
            f"{samples.v3} does not hold what {samples.path} does: make it with `fibo demos convert`."
        )


def fits_in_memory(samples: Samples) -> bool:
    """Whether robomimic's `all` has room: it keeps every sample, with a whole horizon of pictures each."""
    data = our_dataset(samples)
    data.source.close()
    steps = samples.shape_meta.n_obs_steps - 1 + samples.shape_meta.action_horizon
    needed = sum(pictures.nbytes for pictures in data.pictures.values()) * (steps if steps > 1 else 2)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return needed < 0.6 * int(line.split()[1]) * 1024
    return False


def make_file(
    recorded: Path | str, target: Path | str, gigabytes: float, layout: Layout = "recorded"
) -> Path:
    """Make a file of this size by repeating a recorded one's demonstrations, each time under new actions.

    Real pictures, because their compression decides how fast they are read; random ones cannot be compressed.

    Args:
        recorded: a file with pictures.
        target: the file to make.
        gigabytes: its size, 1e9 bytes.
        layout: how pictures lie in it: as `recorded` (files recorded here: a compressed chunk for each), or
            in `one_piece`, as robomimic's own script writes them.

    Raises:
        BenchmarkError: the disk has no room.
    """
    target = Path(target)
    if shutil.disk_usage(target.parent).free < gigabytes * 1.1e9:
        raise BenchmarkError(f"The disk of {target} has no room for {gigabytes:g} GB.")
    generator = np.random.default_rng(0)
    with DemonstrationFile(recorded) as source:
        demos, env_args = source.demos, source.env_args
    with (
        replace_atomically(target) as temporary,
        h5py.File(recorded, "r") as old,
        h5py.File(temporary, "w") as new,
    ):
        new.attrs["made_from"] = Path(recorded).name
        data = new.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        count = 0
        while new.id.get_filesize() < gigabytes * 1e9:
            old.copy(f"data/{demos[count % len(demos)]}", data, f"demo_{count}")
            demo: Any = data[f"demo_{count}"]
            actions = demo["actions"]
            actions[:] += generator.uniform(-1e-3, 1e-3, actions.shape)
            if layout == "one_piece":
                for key, array in list(demo["obs"].items()):
                    values = array[:]
                    del demo["obs"][key]
                    demo["obs"][key] = values
            new.flush()
            count += 1
        new["mask/train"] = np.array([f"demo_{number}" for number in range(count)], dtype="S")
    return target
