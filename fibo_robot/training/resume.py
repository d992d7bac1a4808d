"""What may differ between a run and its continuation: what leaves its results as they are, and no more."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from fibo_robot.errors import FiboError
from fibo_robot.training.checkpoint import CONFIG, META
from fibo_robot.training.config import leaves

# Groups and keys without influence on the result. Data may lie elsewhere: their content is compared. Batches
# are a function of seed and step, whatever the number of loader processes and wherever pictures are kept.
FREE_GROUPS = {"logger", "run_dir", "debug", "rollouts"}
FREE_KEYS = {"data.path", "data.num_workers", "data.cache_gb", "trainer.keep_last"}
MAX_EPOCHS = "trainer.max_epochs"
# Learning rates that do not depend on when training ends.
ENDLESS_SCHEDULES = {"constant", "constant_with_warmup"}


class ResumeError(FiboError):
    """A run directory belongs to another run than the one that is to continue it."""


def refuse_other_config(run_dir: Path, resolved: dict[str, Any]) -> None:
    """An existing run directory may only be continued by the config that made it.

    More or fewer epochs are the same run as long as nothing follows a schedule to the end of training.

    Raises:
        ResumeError: naming the keys that differ, or its config is damaged.
    """
    if not (run_dir / CONFIG).exists():
        return
    earlier = _mapping(run_dir / CONFIG, yaml.safe_load)
    before, now = (dict(leaves(config)) for config in (earlier, resolved))
    changed = {
        key
        for key in {*before, *now}
        if before.get(key) != now.get(key) and key.split(".")[0] not in FREE_GROUPS and key not in FREE_KEYS
    }
    if changed == {MAX_EPOCHS}:
        reason = _depends_on_the_end(resolved, now)
        if reason is None:
            return
        raise ResumeError(
            f"{run_dir} holds a run of {before[MAX_EPOCHS]} epochs whose {reason} ends with the training: "
            f"with another {MAX_EPOCHS} its first epochs would have been different. Give run_dir=NEW_FOLDER."
        )
    if changed:
        named = ", ".join(sorted(changed)[:5]) + (", ..." if len(changed) > 5 else "")
        raise ResumeError(
            f"{run_dir} holds a run with another config ({named}). "
            "Give run_dir=NEW_FOLDER, or the same config to continue it."
        )


def _depends_on_the_end(resolved: dict[str, Any], flat: dict[str, Any]) -> str | None:
    schedule = resolved["optimizer"]["schedule"]
    if schedule not in ENDLESS_SCHEDULES:
        return f"learning rate (schedule {schedule})"
    return "Castling schedule" if "castling" in flat.values() else None


def refuse_other_data(run_dir: Path, meta: dict[str, Any]) -> None:
    """A run may only be continued on the data that it began with, wherever they lie now.

    Args:
        run_dir: the run directory, which may be new.
        meta: what the data say of themselves, with their hash at `dataset.sha256`; empty where another
            process of this run compares them.

    Raises:
        ResumeError: their content differs, or what the run says of them is damaged.
    """
    if not meta or not (run_dir / META).exists():
        return
    earlier = _mapping(run_dir / META, json.loads).get("dataset", {})
    if earlier.get("sha256") != meta["dataset"]["sha256"]:
        raise ResumeError(
            f"The data {meta['dataset']['name']} are not those that {run_dir} was trained on "
            f"({earlier.get('name')}): their content differs. Give the data it began with, or "
            "run_dir=NEW_FOLDER."
        )


def epochs_done(state: Path) -> int:
    """How many epochs a trainer's state file has behind it; 0 where there is none.

    Raises:
        ResumeError: the file is damaged.
    """
    if not state.exists():
        return 0
    try:
        return torch.load(state, map_location="cpu", weights_only=True)["epoch"] + 1
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise _damaged(state) from error


def _mapping(path: Path, read: Callable[[str], Any]) -> dict[str, Any]:
    """What a text file of a run directory holds."""
    try:
        values = read(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise _damaged(path) from error
    if not isinstance(values, dict):
        raise _damaged(path)
    return values


def _damaged(path: Path) -> ResumeError:
    return ResumeError(
        f"{path} is damaged, so its run cannot be continued. Restore it, or give run_dir=NEW_FOLDER."
    )
