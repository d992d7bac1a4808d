"""`fibo demos` with files that cannot be used, and options that it does not have."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest

from fibo_robot.cli.demos import Renderer
from fibo_robot.envs.rendering.settings import RENDERERS
from tests.cli.wrong_input.files import BAD_FILES, write_bad_file, write_robomimic_file
from tests.cli.wrong_input.refusals import check_message, refused, run


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
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], known: tuple[str, ...]
) -> None:
    status, _, err = run(capsys, *arguments)
    shown = " ".join(err.split())
    assert status == 2
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
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], size: str
) -> None:
    status, _, err = run(capsys, "demos", *command, "--image-size", size)
    assert status == 2 and "--image-size" in err
    assert not any(Path.cwd().iterdir())


def test_every_renderer_can_be_chosen() -> None:
    assert get_args(get_args(Renderer)[0]) == ("auto", *RENDERERS)


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
