"""A file is whole or not there, also when the disk is full or the power fails, and errors name it."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fibo_robot.cli import main as command_line
from fibo_robot.files import replace_atomically, write_bytes, write_json

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed to the disk and renamed, in order; temporary names shortened to `new`."""
    made: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def named(path: object) -> str:
        name = Path(str(path)).name
        return "new" if name.startswith(".target") else name

    def flush(descriptor: int) -> None:
        made.append("flush " + named(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda a, b: (made.append(f"{named(a)} to {named(b)}"), replace(a, b)))
    monkeypatch.setattr(os, "rename", lambda a, b: (made.append(f"{named(a)} to {named(b)}"), rename(a, b)))
    return made


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, calls: list[str]) -> None:
    write_json(tmp_path / "target.json", {"a": 1})
    assert calls == ["flush new", "new to target.json", f"flush {tmp_path.name}"]


def test_every_file_of_a_folder_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, calls: list[str]
) -> None:
    (tmp_path / "target").mkdir()
    with replace_atomically(tmp_path / "target") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "weights").write_bytes(b"1")
    assert calls[:3] == ["flush weights", "flush inner", "flush new"]
    assert calls[3:] == ["target to new", "new to target", f"flush {tmp_path.name}"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def limit_file_size() -> None:
    """Files end at 100 bytes: stands for a full disk, which needs no rights to make."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def in_short_of_disk(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit_file_size,
    )


def test_what_does_not_fit_leaves_the_old_file_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    write = "from fibo_robot.files import write_json; write_json('old.json', list(range(100)))"
    done = in_short_of_disk("-c", write, cwd=tmp_path)
    assert done.stderr.strip().splitlines()[-1] == "OSError: [Errno 27] File too large: 'old.json'"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old.json": "old"}


def test_an_error_that_is_not_the_disks_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, replace_atomically(tmp_path / "a"):
        raise OSError(errno.ECONNRESET, "reset")
    assert raised.value.filename is None


def test_a_write_error_names_the_target_not_the_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "inside").touch()
    with pytest.raises(OSError) as raised:
        write_bytes(tmp_path / "target", b"1")
    assert raised.value.filename == str(tmp_path / "target")


@pytest.mark.parametrize("target", [".", "", "/"])
def test_a_folder_without_a_name_is_named_in_the_error(target: str) -> None:
    with pytest.raises(IsADirectoryError) as raised:
        write_json(target, 1)
    assert raised.value.filename == str(Path(target))


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
CHECKPOINT = (
    "import torch; from fibo_robot.training.checkpoint import save_checkpoint\n"
    "save_checkpoint('run', {'weight': torch.zeros(2000)}, {'name': 'test'}, {'kind': 'policy'})"
)
VIDEO_TEST = (
    "import numpy as np; from pathlib import Path\n"
    "from fibo_robot.video.inference.results import VideoTest\n"
    "test = VideoTest(['a', 'b'], [Path('a.mp4')], np.array([1]), np.zeros((1, 1000, 2), np.float32))\n"
    "test.save(Path('run'))"
)


@pytest.mark.parametrize(
    ("script", "name"), [(CHECKPOINT, "model.safetensors"), (VIDEO_TEST, "scores.safetensors")]
)
def test_tensors_that_do_not_fit_are_an_error_of_their_file(tmp_path: Path, script: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMIT + script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.strip().splitlines()[-1] == f"OSError: [Errno 27] File too large: 'run/{name}'"
    assert name not in [path.name for path in (tmp_path / "run").iterdir()]


COMPARE = ("-m", "fibo_robot.cli", "compare", "a", "--output", "compared")


def test_a_full_disk_ends_a_command_in_one_sentence(tmp_path: Path) -> None:
    from tests.envs.results.comparison.test_comparison import evaluation

    evaluation("ssff").save(tmp_path / "a")
    done = in_short_of_disk(*COMPARE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "fibo: compared/comparison.json: File too large.\n"
    assert list((tmp_path / "compared").iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_full_device_ends_in_one_sentence(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fibo_robot.cli", "--help"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr == "fibo: The output could not be written: No space left on device.\n"


def test_a_fault_that_is_not_about_a_file_is_seen_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(OSError, match="reset"):
        command_line.main()
