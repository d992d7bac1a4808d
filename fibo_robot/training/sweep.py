"""Hydra's multirun: `fibo train -m key=a,b,c ...`, with whichever launcher the config chooses."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fibo_robot.extras import require
from fibo_robot.files import write_json
from fibo_robot.training.checkpoint import HISTORY
from fibo_robot.training.config import ConfigError, check_config, explain, offer_plugins
from fibo_robot.training.run import train

FOLDER, SWEEP = "hydra.sweep.dir", "sweep.json"
LAUNCHER = "hydra/launcher"
MULTIRUN = ("-m", "--multirun")  # may stand anywhere among the overrides


def sweep(overrides: Sequence[str]) -> Path:
    """Run every combination of the overrides, each in a run directory of its own; returns the folder of all.

    Without `hydra.sweep.dir=FOLDER` that is `multirun/DATE/TIME`. The run directories are named by the number
    of their combination, or as `hydra.sweep.subdir` says. A combination that fails does not stop the others.

    Ends in a comparison of the runs, on the screen and in `sweep.json`: the last metrics of each.

    Raises:
        ConfigError: the overrides name something unknown, or give a run directory.
        MissingExtraError: the launcher is one of submitit's, which is not installed.
        FiboError: what the first combination that failed raised, after all have run.
    """
    # Hydra takes its options before or after the settings, not among them, and ours are added to these.
    settings = [override for override in overrides if override not in MULTIRUN]
    given = dict(override.lstrip("+").split("=", 1) for override in settings if "=" in override)
    if "run_dir" in given:
        raise ConfigError(
            f"A sweep writes many runs: give their common folder as {FOLDER}=FOLDER, not run_dir."
        )
    folder = given.get(FOLDER) or datetime.now().strftime("multirun/%Y-%m-%d/%H-%M-%S")
    named = [] if FOLDER in given else [f"{FOLDER}={folder}"]
    if given.get(LAUNCHER, "").startswith("submitit"):
        require("submitit", extra="slurm", purpose=f"{LAUNCHER}={given[LAUNCHER]}")

    offer_plugins(settings)

    @hydra.main(version_base="1.3", config_path="pkg://fibo_robot.conf", config_name="train")
    def job(config: DictConfig) -> None:
        check_config(config, HydraConfig.get().overrides.task)
        config.run_dir = HydraConfig.get().runtime.output_dir
        train(config)

    try:
        with _as_hydras_command_line([MULTIRUN[0], *settings, *named]):
            job()
    # Hydra raises ValueError for an override without a key.
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error, settings)) from error
    finally:
        _compare(Path(folder))
    return Path(folder)


def _compare(folder: Path) -> None:
    """Show and keep the last metrics of every run below a sweep's folder, and whether it came to its end."""
    rows: list[dict[str, Any]] = []
    for history in sorted(folder.glob(f"**/{HISTORY}")):
        hydras = history.parent / ".hydra"
        if not hydras.is_dir():  # a run from elsewhere
            continue
        metrics = json.loads(history.read_text(encoding="utf-8"))[-1]
        overrides, config = (
            yaml.safe_load((hydras / name).read_text(encoding="utf-8"))
            for name in ("overrides.yaml", "config.yaml")
        )
        limits = [(metrics[of], config["trainer"].get(f"max_{of}s") or -1) for of in ("epoch", "step")]
        rows.append(
            {
                "run": str(history.parent.relative_to(folder)),
                "overrides": overrides,
                "finished": any(0 < limit <= done for done, limit in limits),
                **metrics,
            }
        )
    if not rows:
        return
    write_json(folder / SWEEP, rows)
    differing = [text for text in rows[0]["overrides"] if any(text not in row["overrides"] for row in rows)]
    varied = {text.split("=", 1)[0] for text in differing}
    for row in rows:
        chosen = " ".join(text for text in row["overrides"] if text.split("=", 1)[0] in varied)
        metrics = "  ".join(
            f"{name} {row[name]:.4g}" for name in row if "/" in name and row[name] is not None
        )
        ended = "" if row["finished"] else f"  (not finished: {row['epoch']} epochs)"
        print(f"{row['run']}  {chosen}  {metrics}{ended}".replace("    ", "  "), flush=True)
    print(f"{len(rows)} runs: {folder / SWEEP}", flush=True)


@contextmanager
def _as_hydras_command_line(arguments: list[str]) -> Iterator[None]:
    """`hydra.main` reads sys.argv, and turns errors into exits unless told to raise them."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["fibo train", *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
