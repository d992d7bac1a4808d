"""Wrong input ends in one clear message and a non-zero exit, leaves no traceback and nothing half-written."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest
import torch

from fibo_robot.cli import main as command_line
from fibo_robot.cli.demos import Renderer
from fibo_robot.envs.rendering.settings import RENDERERS
from fibo_robot.interfaces import ActionSpec
from fibo_robot.training.checkpoint import save_checkpoint

TRAIN = ("train", "experiment=lift_bc", "trainer.accelerator=cpu", "run_dir=run")
DEMOS = "data.path=demos.hdf5"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `fibo`; check that it refuses in the way every command must; return the message.

    Any other exception than the exit would be a traceback on the user's screen, and fails the test.
    """
    before = snapshot(Path.cwd())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fibo", *arguments])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
    shown = capsys.readouterr()
    assert stopped.value.code not in (0, None), f"exit status 0 after: {shown.out}{shown.err}"
    assert snapshot(Path.cwd()) == before, "files were left behind"
    check_message(shown.err)
    return shown.err


def check_message(shown: str) -> None:
    assert "Traceback" not in shown
    (message,) = [line for line in shown.splitlines() if line.startswith("fibo: ")]
    assert shown.strip().endswith(message), "the message comes last and is one line"
    assert 20 < len(message) < 600


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def write_robomimic_file(path: Path, key: str = "actions", values: np.ndarray | None = None) -> Path:
    """A file as robomimic writes it, as far as it goes; large enough to be cut in half."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        demo = data.create_group("demo_0")
        demo.create_dataset(key, data=np.zeros((5000, 7)) if values is None else values)
    return path


# --- fibo train --------------------------------------------------------------------------------------------


def test_mistyped_config_key_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *TRAIN, "trainer.max_epoch=3", DEMOS)
    assert "trainer.max_epoch'" in message and "'trainer.max_epochs'" in message


def test_mistyped_group_key_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *TRAIN, "atention=fibottention", DEMOS)
    assert "atention" in message and "'attention'" in message


def test_unknown_experiment_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "train", "experiment=lift_bd")
    assert "lift_bd" in message and "'lift_bc'" in message


def test_unknown_attention_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *TRAIN, "attention=fibotention", DEMOS)
    assert "fibotention" in message and "'fibottention'" in message


@pytest.mark.parametrize("override", ["=3", "trainer.max_epochs", "optimizer.lr=[1,", "a b=3"])
def test_malformed_override_is_repeated_in_the_message(
    capsys: pytest.CaptureFixture[str], override: str
) -> None:
    message = refused(capsys, *TRAIN, DEMOS, override)
    assert override in message and "key=value" in message


def test_training_without_an_experiment_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lift_bc" in refused(capsys, "train")


def test_dataset_path_that_was_not_given_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.path" in refused(capsys, *TRAIN)


# What is wrong with a demonstration file, and the words that must say so.
BAD_FILES = {
    "missing": "does not exist",
    "folder": "is a folder",
    "empty": "truncated or no HDF5",
    "text": "truncated or no HDF5",
    "truncated": "truncated or no HDF5",
    "not_robomimic": "not in robomimic's layout",
    "no_demonstrations": "holds no demonstrations",
    "no_actions": "has no actions",
    "words_for_actions": "actions of demo_0 are no numbers",
    "flat_actions": "not one row for each step",
    "link_to_nowhere": "obs/lost is no array",
}


def write_bad_file(kind: str) -> Path:
    path = Path("demos.hdf5")
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("not HDF5 at all\n" * 100)
        case "folder":
            path.mkdir()
        case "truncated":
            write_robomimic_file(path)
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        case "not_robomimic":
            with h5py.File(path, "w") as file:
                file["weights"] = np.zeros(3)
        case "no_demonstrations":
            write_robomimic_file(path)
            with h5py.File(path, "r+") as file:
                del file["data/demo_0"]
        case "no_actions":
            write_robomimic_file(path, key="something_else")
        case "words_for_actions":
            write_robomimic_file(path, values=np.array([b"left"] * 5000))
        case "flat_actions":
            write_robomimic_file(path, values=np.zeros(5000))
        case "link_to_nowhere":
            write_robomimic_file(path)
            with h5py.File(path, "r+") as file:
                file["data/demo_0/obs/lost"] = h5py.SoftLink("/nowhere")
    return path


@pytest.mark.parametrize("kind", BAD_FILES)
def test_training_on_an_unusable_dataset_is_refused(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    write_bad_file(kind)
    message = refused(capsys, *TRAIN, DEMOS)
    assert "demos.hdf5" in message and BAD_FILES[kind] in message


# --- fibo demos --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD_FILES)
def test_unusable_demonstrations_are_not_described(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    write_bad_file(kind)
    message = refused(capsys, "demos", "info", "demos.hdf5")
    assert "demos.hdf5" in message and BAD_FILES[kind] in message


def test_a_file_that_is_being_written_is_not_called_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import h5py; file = h5py.File('demos.hdf5', 'w'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        assert "another program is writing it" in refused(capsys, "demos", "info", "demos.hdf5")
        writer.communicate(b"\n")


def test_a_mask_of_numbers_is_not_described(capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(write_robomimic_file(Path("demos.hdf5")), "r+") as file:
        file["mask/train"] = np.zeros(3)
    message = refused(capsys, "demos", "info", "demos.hdf5")
    assert "mask train" in message and "holds no names" in message


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("command", ["convert", "replay"])
def test_unusable_demonstrations_are_refused(
    capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    write_bad_file(kind)
    output = ("--output", "out.hdf5") if command == "convert" else ()
    message = refused(capsys, "demos", command, "demos.hdf5", *output)
    # A folder may be a dataset of LeRobot's, which convert takes.
    wrong = "meta/info.json" if (command, kind) == ("convert", "folder") else BAD_FILES[kind]
    assert "demos.hdf5" in message and wrong in message


def test_unknown_task_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "demos", "record", "lfit", "--output", "out.hdf5")
    assert "lfit" in message and "lift" in message.replace("lfit", "")


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (("demos", "record", "lift", "--output", "out.hdf5", "--renderer", "opengl"), RENDERERS),
        (("demos", "replay", "demos.hdf5", "--by", "opengl"), ("states", "actions")),
    ],
)
def test_unknown_choice_is_named_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    known: tuple[str, ...],
) -> None:
    monkeypatch.setattr(sys, "argv", ["fibo", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    shown = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2
    assert "'opengl' is not one of" in shown
    assert all(f"'{name}'" in shown for name in known)


@pytest.mark.parametrize("size", ["0", "-96"])
@pytest.mark.parametrize(
    "command",
    [
        ("record", "lift", "--output", "out.hdf5"),
        ("convert", "raw.hdf5", "--output", "out.hdf5"),
        ("skills", "--output", "out"),
    ],
)
def test_pictures_without_a_size_are_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    size: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["fibo", "demos", *command, "--image-size", size])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert stopped.value.code == 2 and "--image-size" in capsys.readouterr().err
    assert not any(Path.cwd().iterdir())


def test_every_renderer_can_be_chosen() -> None:
    assert get_args(get_args(Renderer)[0]) == ("auto", *RENDERERS)


# --- fibo bench --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("policy", "--policies", "bc"), "--batches"),
        (("attention",), "--tokens"),
    ],
)
@pytest.mark.parametrize("number", ["0", "4,-1"])
def test_a_benchmark_of_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], option: str, number: str
) -> None:
    assert f"{option} must be at least 1" in refused(capsys, "bench", *command, option, number)


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_results_that_could_not_be_written_are_not_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("minutes of work for nothing")

    monkeypatch.setattr("fibo_robot.benchmarks.attention.sweep.measure", measure)
    Path("file").touch()
    for output, reason in (("file/rows", "exists"), (".", "directory")):
        assert reason in refused(capsys, "bench", "attention", option, output), output
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_a_study_without_a_finished_run_has_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No run is finished in runs/study/small" in refused(capsys, "bench", "study")


# --- fibo compare ------------------------------------------------------------------------------------------


def test_missing_evaluation_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no seed=0/rollouts" in refused(capsys, "compare", "fibo=seed=0/rollouts")


@pytest.mark.parametrize("content", ["{ cut off", "[]", '{"schema_version": 1}', '{"schema_version": 7}'])
def test_damaged_evaluation_is_named(capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("eval.json").write_text(content)
    assert "eval.json" in refused(capsys, "compare", "eval.json")


# --- checkpoints -------------------------------------------------------------------------------------------


def write_checkpoint(kind: str) -> None:
    """A checkpoint directory with all its files, but of no model that exists."""
    meta = {"kind": kind, "task": {}, "shape_meta": {"obs": {}, "action": ActionSpec.deltas().to_dict()}}
    save_checkpoint("run", {"weight": torch.zeros(2)}, {"name": "test"}, meta)


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors"])
def test_checkpoint_with_a_file_missing_names_the_file(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_checkpoint("policy")
    Path("run", name).unlink()
    message = refused(capsys, "rollout", "run")
    assert name in message and "not a complete checkpoint" in message


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors"])
def test_checkpoint_with_a_damaged_file_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_checkpoint("policy")
    Path("run", name).write_bytes(b"{ cut off")
    assert "damaged" in refused(capsys, "rollout", "run")


def test_missing_checkpoint_directory_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refused(capsys, "rollout", "nowhere")


def test_rollout_of_a_classifier_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint("classifier")
    assert "classifier" in refused(capsys, "rollout", "run")


def test_checkpoint_is_never_unpickled(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    """A pickle in the place of the weights is refused without running what it holds."""
    write_checkpoint("policy")
    payload = pickle.dumps(_Touch(str(empty_folder / "ran")))
    Path("run", "model.safetensors").write_bytes(payload)
    refused(capsys, "rollout", "run")
    assert not (empty_folder / "ran").exists()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.sim
def test_machine_without_a_gl_library_is_told_the_package(empty_folder: Path) -> None:
    """Unusable libraries come first on the loader's path, as if none were installed."""
    libraries = empty_folder / "libraries"
    libraries.mkdir()
    for name in ("libEGL.so.1", "libOSMesa.so.8"):
        (libraries / name).touch()
    command = ("demos", "record", "lift", "--episodes", "1", "--workers", "1", "--output", "out.hdf5")
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-m", "fibo_robot.cli", *command],
        env={**environment, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    check_message(done.stderr)
    assert "apt-get install libegl1 libgl1-mesa-dri" in done.stderr
    assert [path.name for path in empty_folder.iterdir()] == ["libraries"]
