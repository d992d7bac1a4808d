"""Where things lie in a file of demonstrations: robomimic's HDF5 layout.

`data` holds one group per demonstration, `demo_0`, `demo_1`, …, with `obs/<key>`, `actions`, `states`,
`rewards` and `dones`, and the attributes `num_samples` and `model_file`; `data` itself has the attributes
`env_args` (JSON) and `total`; `mask/train` and `mask/valid` list names of demonstrations. Pictures are uint8
`(T, H, W, 3)`. What robosuite's own script for collecting demonstrations writes is read as well: `data` has
the attributes `env`, `env_info` and `repository_version` there, and demonstrations have neither `obs` nor
rewards. Files recorded here add `expert_actions` (what the expert meant, where `actions` is what was
executed, noise included) and the attributes `seed` and `success`.
"""

import json
import re
from typing import Any

import h5py

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.robomimic_metadata import env_args_of_robosuite

_DEMO_NAME = re.compile(r"demo_(\d+)")


def read_env_args(file: h5py.File) -> dict[str, Any]:
    """The environment metadata of a file, as robomimic has them.

    Raises:
        DatasetError: the file is in neither layout, or its metadata are no JSON or name no environment.
    """
    data = file.get("data")
    if isinstance(data, h5py.Group) and "env_info" in data.attrs and "env_args" not in data.attrs:
        return env_args_of_robosuite(data.attrs, file.filename)
    if not isinstance(data, h5py.Group) or "env_args" not in data.attrs:
        raise DatasetError(
            f"{file.filename} is not in robomimic's layout: it has no data group with env_args (nor "
            "env_info, as robosuite's collection script writes it)."
        )
    text = data.attrs["env_args"]
    try:
        env_args = json.loads(text if isinstance(text, str | bytes) else str(text))
    except json.JSONDecodeError as error:
        raise DatasetError(f"The env_args of {file.filename} are not JSON.") from error
    if not isinstance(env_args, dict) or "env_name" not in env_args:
        raise DatasetError(f"The env_args of {file.filename} do not name an environment (env_name).")
    return env_args


def demonstration_names(data: h5py.Group) -> list[str]:
    """Names of the demonstrations in the group `data`, in the order of their numbers.

    Raises:
        DatasetError: there are none, or two of one number.
    """
    names: dict[int, str] = {}
    for name in filter(_DEMO_NAME.fullmatch, map(str, data)):
        other = names.setdefault(demonstration_number(name), name)
        if other != name:
            raise DatasetError(
                f"{data.file.filename} holds {name} and {other}, which have the same number; rename one."
            )
    if not names:
        raise DatasetError(f"{data.file.filename} holds no demonstrations (data/demo_0, …).")
    return [names[number] for number in sorted(names)]


def demonstration_number(name: str) -> int:
    """The number of a demonstration by its name: 7 of `demo_7` and of `demo_007`."""
    return int(name.removeprefix("demo_"))


def check_demonstration(data: h5py.Group, demo: str) -> None:
    """See that a demonstration has actions, and as many rows of everything else.

    Raises:
        DatasetError: it has not.
    """
    group = data[demo]
    if not isinstance(group, h5py.Group) or "actions" not in group:
        raise DatasetError(f"{data.file.filename} is not in robomimic's layout: {demo} has no actions.")
    actions = array_at(group, "actions")
    length = len(actions)
    _require_numbers(actions, demo, "actions")
    if actions.ndim != 2:
        raise DatasetError(
            f"{data.file.filename} is not in robomimic's layout: actions of {demo} have shape "
            f"{actions.shape}, not one row for each step."
        )
    for key in array_names(group):
        if key in ("states", "rewards", "dones"):
            array = array_at(group, key)
            _require_numbers(array, demo, key)
            require_rows(array, demo, key, length)
        elif key.startswith("obs/"):
            require_rows(array_at(group, key), demo, key, length)


def _require_numbers(array: h5py.Dataset, demo: str, key: str) -> None:
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{array.file.filename} is damaged: {key} of {demo} are no numbers.")


def require_rows(array: h5py.Dataset, demo: str, key: str, length: int) -> None:
    """Raise DatasetError unless an array has a row for each of a demonstration's `length` actions."""
    rows = len(array)
    if rows != length:
        raise DatasetError(
            f"{array.file.filename} is damaged: {demo} has {length} actions but {rows} rows of {key}."
        )


def array_names(group: h5py.Group) -> list[str]:
    """Names of a demonstration's arrays, `actions` or `obs/object`."""
    obs = group.get("obs")
    seen = [f"obs/{key}" for key in obs] if isinstance(obs, h5py.Group) else []
    return [str(key) for key in group if key != "obs"] + seen


def array_at(group: h5py.Group, key: str) -> h5py.Dataset:
    """An array by its name.

    Raises:
        DatasetError: it is no array.
    """
    try:
        array = group[key]
    except KeyError:  # a link that leads nowhere
        array = None
    if not isinstance(array, h5py.Dataset) or not array.shape:
        name = f"{str(group.name).rstrip('/')}/{key}"
        raise DatasetError(f"{group.file.filename} is not in robomimic's layout: {name} is no array.")
    return array
