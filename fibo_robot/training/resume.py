"""What may differ between a run and its continuation: what leaves its results as they are, and no more."""

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
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
        ResumeError: naming the keys that differ.
    """
    if not (run_dir / CONFIG).exists():
        return
    earlier = _read(run_dir / CONFIG, lambda path: dict(yaml.safe_load(path.read_text(encoding="utf-8"))))
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
        ResumeError: their content differs.
    """
    if not meta or not (run_dir / META).exists():
        return
    known = _read(run_dir / META, lambda path: dict(json.loads(path.read_text(encoding="utf-8"))))
    earlier = known.get("dataset", {})
    if earlier.get("sha256") != meta["dataset"]["sha256"]:
        raise ResumeError(
            f"The data {meta['dataset']['name']} are not those that {run_dir} was trained on "
            f"({earlier.get('name')}): their content differs. Give the data it began with, or "
            "run_dir=NEW_FOLDER."
        )


def epochs_done(state: Path) -> int:
    """How many epochs a trainer's state file has behind it; 0 where there is none.

    Raises:
        ResumeError: it is damaged.
    """
    if not state.exists():
        return 0
    return _read(state, lambda path: torch.load(path, map_location="cpu", weights_only=True)["epoch"]) + 1


def _read(file: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file of a run directory; raises ResumeError where it is damaged."""
    try:
        return read(file)
    except (
        yaml.YAMLError,
        UnpicklingError,
        EOFError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ResumeError(
            f"{file} is damaged ({' '.join(str(error).split()[:20])}), so it cannot be continued. Restore "
            "it, or give run_dir=NEW_FOLDER."
        ) from error
