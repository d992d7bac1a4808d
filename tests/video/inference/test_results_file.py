"""`fibo classify --json FILE`: what is kept when it is interrupted, and how it goes on."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fibo_robot.cli.classify.lines import finished_rows
from fibo_robot.cli.classify.output import Output
from fibo_robot.errors import FiboError
from fibo_robot.processes import BusyError
from tests.processes import another_writer
from tests.video.command_line import run


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_interrupted_classification_goes_on(checkpoint: Path, motion_clips: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    run("classify", checkpoint, motion_clips, "--json", file)
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    # As a kill leaves it: some lines, a file that could not be read then, the beginning of a line.
    failed = {**json.loads(lines[5]), "error": "it was not there"}
    del failed["predictions"]
    file.write_text("".join(lines[:5]) + json.dumps(failed) + "\n" + lines[6][:40])
    status, _, errors = run(
        "classify", checkpoint, motion_clips, "--json", file, "--csv", tmp_path / "out.csv"
    )
    assert status == 0 and f"5 of 24 files have their results in {file} already" in errors
    assert file.read_text().startswith("".join(lines[:5]))
    assert sorted(file.read_text().splitlines()) == sorted(whole.splitlines())
    with (tmp_path / "out.csv").open(newline="") as stream:
        assert len({row["path"] for row in csv.DictReader(stream)}) == 24
    status, out, errors = run("classify", checkpoint, motion_clips, "--json", file)
    assert status == 0 and "24 of 24 files" in errors and "left_0.mp4" in out
    assert len(rows(file)) == 24


def test_a_timeline_that_was_broken_off_is_made_anew(
    checkpoint: Path, rise_and_fall: Path, motion_clips: Path, tmp_path: Path
) -> None:
    file, files = tmp_path / "out.jsonl", (motion_clips / "left_0.mp4", rise_and_fall)
    options = ("--window", 2, "--json", file)
    run("classify", checkpoint, *files, *options)
    whole = file.read_text()
    assert len(rows(file)) == 2 + 4
    file.write_text("".join(whole.splitlines(keepends=True)[:4]))  # two of three windows
    _, out, errors = run("classify", checkpoint, *files, *options)
    assert "1 of 2 files" in errors and file.read_text() == whole
    assert "left_0.mp4" in out and rise_and_fall.name in out


@pytest.mark.parametrize("more", [("--top-k", 2), ("--views", 2), ("--window", 1)])
def test_results_of_other_options_are_not_gone_on_with(
    checkpoint: Path, motion_clips: Path, tmp_path: Path, more: tuple
) -> None:
    file, clip = tmp_path / "out.jsonl", motion_clips / "left_0.mp4"
    run("classify", checkpoint, clip, "--json", file)
    before = file.read_text()
    with pytest.raises(FiboError, match=r"holds results of .* delete it, or name another"):
        run("classify", checkpoint, clip, "--json", file, *more)
    assert file.read_text() == before


def test_two_that_write_one_file_at_once_are_refused(tmp_path: Path) -> None:
    """The second put a file of its own in the place of the one that the first went on writing."""
    file = tmp_path / "out.jsonl"
    file.write_text('{"path": "a", "start": 0.0, "predictions": [], "made_by": "x"}\n')
    before = file.read_text()
    output = Output(str(file), None, as_timeline=True, made_by="x", goes_on=True)
    with another_writer(file, lock="only_writer_of") as first:
        with pytest.raises(BusyError, match=f"Process {first.pid} is writing into {file}"), output:
            pytest.fail("there were two")
        assert file.read_text() == before
        first.communicate("")
    with output:
        pass
    assert list(tmp_path.iterdir()) == [file]


def test_another_file_is_not_written_into(checkpoint: Path, motion_clips: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("my notes\n")
    with pytest.raises(FiboError, match="holds no results of fibo classify"):
        run("classify", checkpoint, motion_clips, "--json", tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "my notes\n"


def test_a_file_that_is_right_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text(json.dumps({"path": "a", "predictions": [], "made_by": "x"}) + "\n")
    status = file.stat()
    assert [row["path"] for row in finished_rows(file, "x")] == ["a"]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_full_disk_is_said(
    checkpoint: Path, motion_clips: Path, tmp_path: Path, small_files, option: str
) -> None:
    file = tmp_path / "out"
    with small_files(700), pytest.raises(FiboError, match=r"out cannot be written: File too large"):
        run("classify", checkpoint, motion_clips, option, file)
    assert file.exists() == (option == "--json")  # lines that were finished are kept, half a table is not


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_finished_and_says_so(
    checkpoint: Path, motion_clips: Path, warm: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "out.jsonl"
    command = [*warm, "fibo", "classify", str(checkpoint), str(motion_clips)]
    slow = [*command, "--views", "20", "--json", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        slow, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and file.read_text().count("\n") >= 2:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    kept = len(rows(file))
    assert process.returncode == 130 and 2 <= kept < 24
    assert f"keeps the results of {kept} files; the same command goes on" in errors
    status, _, errors = run("classify", checkpoint, motion_clips, "--views", 20, "--json", file)
    assert status == 0 and f"{kept} of 24 files" in errors and len(rows(file)) == 24
