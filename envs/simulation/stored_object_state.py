"""The observation `object` of files that robosuite and robomimic wrote, in this program's order and signs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.object_state import BETWEEN, NO_ENTRIES, OBJECT_STATES, TURNED, object_entries


def stored_object_state(
    values: np.ndarray, env_args: Mapping[str, Any], source: str, own: Mapping[str, int] = NO_ENTRIES
) -> np.ndarray:
    """The `object` observations of a robomimic file in this order and with these signs.

    robosuite 1.5 gives what is relative to the gripper from the object's pose when it was last looked at, so
    in files made with it (not by this program) these numbers lag one look behind; they are only moved here.

    Args:
        values: as stored, `(T, D)`.
        env_args: the file's environment metadata.
        source: what to call the file in messages.
        own: see :func:`object_entries`.

    Raises:
        DatasetError: if nothing says how the file's robosuite ordered them, or their number is another one.
    """
    env_name = env_args["env_name"]
    entries = object_entries(env_name, own) if own or env_name in OBJECT_STATES else ()
    names = [entry.name for entry in entries]
    ours = env_args.get("fibo_robot", {}).get("object_state")
    if ours is not None:
        if list(ours) != names:
            raise DatasetError(
                f"The object observations of {source} hold {', '.join(ours)}; this program has "
                f"{', '.join(names)}. Convert the file's states again with `fibo demos convert`."
            )
        return values
    generation = _generation(env_args)
    if generation is None or not names or (own and generation == "1.4"):
        raise DatasetError(
            f"{source} does not say in which order its object observations lie (env_version "
            f"{env_args.get('env_version') or 'missing'}, known are 1.0 to 1.5). Convert its states again "
            "with `fibo demos convert`, or train without the key object."
        )
    sizes = {entry.name: entry.size for entry in entries}
    if values.shape[-1] != sum(sizes.values()):
        raise DatasetError(
            f"The object observations of {source} have {values.shape[-1]} numbers, those of {env_name} have "
            f"{sum(sizes.values())}. Convert its states again with `fibo demos convert`."
        )
    stored = names if own else _stored_names(names, generation)
    ends = np.cumsum([sizes[name] for name in stored])
    parts = dict(zip(stored, np.split(values, ends[:-1], axis=-1)))
    if generation == "1.4" and TURNED in parts:
        parts[TURNED] = -parts[TURNED]
    return np.concatenate([parts[name] for name in names], axis=-1)


def _generation(env_args: Mapping[str, Any]) -> Literal["1.4", "1.5"] | None:
    """Whose order a file's `object` has: robosuite's up to 1.4, or 1.5's; None where nothing tells.

    robomimic's first files name no version. They were made before robosuite 1.5, which is told by their
    controllers: 1.5 has no configuration that is one arm's alone.
    """
    version = env_args.get("env_version")
    if version is None:
        controllers = env_args.get("env_kwargs", {}).get("controller_configs")
        first = controllers[0] if isinstance(controllers, list) and controllers else controllers
        return "1.4" if isinstance(first, Mapping) and "type" in first and "body_parts" not in first else None
    major, _, minor = ".".join(str(version).split(".")[:2]).partition(".")
    if major != "1" or minor not in ("0", "1", "2", "3", "4", "5"):
        return None
    return "1.5" if minor == "5" else "1.4"


def _stored_names(names: Sequence[str], generation: Literal["1.4", "1.5"]) -> list[str]:
    """The names of :data:`OBJECT_STATES` in the order in which that robosuite stores them."""
    stored = list(names)
    if generation == "1.4":  # in Transport, whether things are where they belong comes last
        return sorted(stored, key=lambda name: name.endswith(("_in_target_bin", "_in_trash_bin")))
    for name in names:  # an object's pose in the gripper's frame comes before its pose in the world
        if name.endswith("_to_robot0_eef_pos"):
            at = names.index(name)
            stored[at - 2 : at + 2] = [*names[at : at + 2], *names[at - 2 : at]]
    if BETWEEN in stored:  # in Stack, the way between the cubes comes before the ways from the gripper
        stored.remove(BETWEEN)
        stored.insert(stored.index("gripper_to_cubeA"), BETWEEN)
    return stored
