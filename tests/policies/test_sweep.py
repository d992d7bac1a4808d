"""A sweep runs every combination, says where, and its errors are sentences."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from fibo_robot.errors import FiboError
from fibo_robot.policies.module import DivergedError
from fibo_robot.training.checkpoint import load_checkpoint
from fibo_robot.training.config import ConfigError
from fibo_robot.training.overrides import train_from_overrides
from tests.policies.test_resume import overrides

TINY = ["trainer.max_epochs=1", "data.steps_per_epoch=1"]


def sweep(demonstrations: Path, *more: str) -> Path:
    given = [entry for entry in overrides(demonstrations, Path("unused")) if not entry.startswith("run_dir")]
    return train_from_overrides(["-m", *given, *TINY, *more])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_combination_has_a_run_in_the_folder_that_is_returned(
    demonstrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep(demonstrations, "seed=3,4")
    rows = json.loads((folder / "sweep.json").read_text())
    history = [json.loads((folder / run / "history.json").read_text())[-1] for run in ("0", "1")]
    assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in history]
    last = capsys.readouterr().out.splitlines()[-3:]
    assert last[0].startswith(f"0  seed=3  train/loss {history[0]['train/loss']:.4g}")
    assert last[1].startswith("1  seed=4  train/loss") and last[2].startswith("2 runs: ")
    assert folder.parts[0] == "multirun"
    assert [load_checkpoint(folder / run).config["seed"] for run in ("0", "1")] == [3, 4]


@pytest.mark.parametrize("place", [1, -1])
@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_the_flag_may_stand_anywhere(demonstrations: Path, place: int, flag: str) -> None:
    entries = overrides(demonstrations, Path("unused"))
    given = [entry for entry in [*entries, *TINY, "seed=5"] if not entry.startswith("run_dir")]
    given.insert(place % (len(given) + 1), flag)
    assert load_checkpoint(train_from_overrides(given) / "0").config["seed"] == 5


def test_a_run_from_elsewhere_in_the_folder_is_left_out(demonstrations: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "alone").mkdir(parents=True)
    (folder / "alone" / "history.json").write_text('[{"train/loss": 1.0}]')
    sweep(demonstrations, "seed=5", f"hydra.sweep.dir={folder}")
    assert [row["run"] for row in json.loads((folder / "sweep.json").read_text())] == ["0"]


def test_a_folder_may_be_given(demonstrations: Path, tmp_path: Path) -> None:
    folder = sweep(
        demonstrations, "seed=5", f"hydra.sweep.dir={tmp_path}/mine", "hydra.sweep.subdir=s${seed}"
    )
    assert folder == tmp_path / "mine"
    assert load_checkpoint(folder / "s5").config["run_dir"] == str(tmp_path / "mine" / "s5")


def test_a_combination_that_fails_is_named_and_the_others_run(demonstrations: Path, tmp_path: Path) -> None:
    with pytest.raises(FiboError, match=r"no optimizer named 'adamv'.*Did you mean"):
        sweep(demonstrations, "optimizer.name=adamv,adamw", f"hydra.sweep.dir={tmp_path}/mine")
    assert not (tmp_path / "mine" / "0" / "model.safetensors").exists()
    assert load_checkpoint(tmp_path / "mine" / "1").config["optimizer"]["name"] == "adamw"
    assert [row["run"] for row in json.loads((tmp_path / "mine" / "sweep.json").read_text())] == ["1"]


def test_a_run_that_stops_on_its_way_does_not_look_finished(
    demonstrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DivergedError, match="diverged in epoch 3: outputs are no longer finite"):
        sweep(demonstrations, "optimizer.lr=1e30,1e-4", "trainer.max_epochs=3", "hydra.sweep.dir=mine")
    rows = json.loads((tmp_path / "mine" / "sweep.json").read_text())
    assert [row["finished"] for row in rows] == [False, True]
    first, second, _ = capsys.readouterr().out.splitlines()[-3:]
    assert first.endswith(f"(not finished: {rows[0]['epoch']} epochs)") and "finished" not in second


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1,2", r"'optimizer\.lrr'.*Did you mean 'optimizer\.lr'"),
        ("experiment=lift_bd", "no experiment named 'lift_bd'"),
        ("seed=[", "seed="),
        ("data.batch_size=many", r"data\.batch_size must be a number like 64, not 'many'"),
        ("+lr=1,2", r"'lr': nothing reads it. Did you mean 'optimizer.lr'"),
        ("++run_dir=here", r"hydra\.sweep\.dir=FOLDER, not run_dir"),
        ("run_dir=here", r"hydra\.sweep\.dir=FOLDER, not run_dir"),
    ],
)
def test_wrong_overrides_are_said_as_without_a_sweep(
    demonstrations: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(demonstrations, override)


def test_without_submitit_its_launchers_name_the_extra(
    demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(FiboError, match=r"pip install 'fibo-robot\[slurm\]'"):
        sweep(demonstrations, "seed=3,4", "hydra/launcher=submitit_slurm")


@pytest.mark.slow
@pytest.mark.slurm
def test_runs_of_a_sweep_are_jobs_of_submitit(
    demonstrations: Path, warm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitit's local executor: jobs are pickled, queued and collected as SLURM's are, in processes here."""
    python = tmp_path / "python"
    job, other = shlex.join([*warm, "python"]), shlex.quote(sys.executable)
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *submitit.core._submit*) exec {job} "$@";; *) exec {other} "$@";; esac\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    here = sweep(demonstrations, "seed=3,4", f"hydra.sweep.dir={tmp_path}/here")
    jobs = sweep(
        demonstrations,
        "seed=3,4",
        f"hydra.sweep.dir={tmp_path}/jobs",
        "hydra/launcher=submitit_local",
        "hydra.launcher.timeout_min=5",
    )
    loss = [[row["train/loss"] for row in json.loads((f / "sweep.json").read_text())] for f in (here, jobs)]
    assert len(loss[0]) == 2 and loss[0] == loss[1]
    assert len(list((jobs / ".submitit").rglob("*_result.pkl"))) == 2
