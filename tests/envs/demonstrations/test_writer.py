"""Writing demonstration files: parts and files are whole or absent, by one recording at a time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.demonstrations.writer import DemonstrationWriter, write_part
from fibo_robot.processes import BusyError
from tests.envs.demonstrations.written import demonstration
from tests.processes import another_writer


def test_a_disk_without_room_for_the_file_is_said_before_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = DemonstrationWriter(tmp_path / "demos.hdf5", {})
    write_part(writer.part(0), demonstration(4, 0))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(DatasetError, match=r"the disk has 0 MB left.*what is recorded is kept"):
        writer.finish({"demo_0": 0}, {}, {})
    assert writer.has(0) and not writer.target.exists()


def test_a_part_that_does_not_fit_on_the_disk_is_named_and_absent(tmp_path: Path) -> None:
    """HDF5 itself ends the process when its file cannot grow."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.envs.demonstrations.test_writer import demonstration, write_part\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "write_part(Path('000000001.hdf5'), demonstration(400, 1))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, last) == (1, "OSError: [Errno 27] File too large: '000000001.hdf5'")
    assert list(tmp_path.iterdir()) == []


def test_one_recording_at_a_time_goes_on_with_a_target(tmp_path: Path) -> None:
    """The second one's parts went with the folder that the first removed at its end."""
    target = tmp_path / "demos.hdf5"
    with (
        another_writer(tmp_path / ".demos.hdf5.parts") as first,
        pytest.raises(BusyError, match=f"Process {first.pid} is writing"),
        DemonstrationWriter.alone(target, {}),
    ):
        pytest.fail("there were two")
    with DemonstrationWriter.alone(target, {}) as writer:
        write_part(writer.part(0), demonstration(4, 0))
        writer.finish({"demo_0": 0}, {}, {})
    assert list(tmp_path.iterdir()) == [target]


def test_parts_of_settings_that_nobody_knows_are_not_taken(tmp_path: Path) -> None:
    """An end that is interrupted while it removes the folder may have removed the settings alone."""
    writer = DemonstrationWriter(tmp_path / "demos.hdf5", {"noise": 0.1})
    write_part(writer.part(0), demonstration(4, 0))
    (writer.folder / "settings.json").unlink()
    assert not DemonstrationWriter(tmp_path / "demos.hdf5", {"noise": 0.2}).has(0)


def test_an_interrupted_write_leaves_no_target_and_continues(tmp_path: Path) -> None:
    target = tmp_path / "demos.hdf5"
    writer = DemonstrationWriter(target, {"noise": 0.1})
    write_part(writer.part(0), demonstration(4, 0))
    broken = demonstration(4, 1)
    broken.attributes["seed"] = object()  # type: ignore[index]  # h5py cannot write it
    with pytest.raises(TypeError):
        write_part(writer.part(1), broken)
    again = DemonstrationWriter(target, {"noise": 0.1})
    assert (again.has(0), again.has(1), target.exists()) == (True, False, False)
    with pytest.raises(DatasetError, match="other settings"):
        DemonstrationWriter(target, {"noise": 0.2})
