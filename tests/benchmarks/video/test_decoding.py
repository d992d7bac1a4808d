"""The decoding benchmark times every backend on the same frames, and says which give others."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.video import decoding as benchmark
from fibo_robot.benchmarks.video.pipeline import write_clips
from fibo_robot.cli.main import app
from fibo_robot.video.datasets.reencode import Encoding, reencode

CASES = ("random", "uniform", "clip", "whole", "first")
LIBRARIES = {"pyav", "decord", "fibo", "fibo_decord"}
if find_spec("torchcodec"):
    LIBRARIES |= {"torchcodec", "fibo_torchcodec"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    write_clips(path, count=2, length=20, size=(64, 96))
    return path


def test_command_writes_a_row_per_library_and_habit(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "decoding.json"
    arguments = ["bench", "decoding", "--clips", str(folder), "--rounds", "1", "--json", str(results)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads(results.read_text())["rows"]
    assert {(row["case"], row["library"]) for row in rows} == {
        (case, library) for case in CASES for library in LIBRARIES
    }
    assert {row["frames"] for row in rows if row["case"] == "whole"} == {40}
    assert {row["frames"] for row in rows if row["case"] == "first"} == {2}
    assert all(row["clips_that_differ"] == 0 and row["clips"] == 2 for row in rows)
    assert all(row["speedup"] == 1 for row in rows if row["library"] == "pyav")


def test_a_library_with_other_frames_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = benchmark.decord_frames
    monkeypatch.setattr(
        benchmark, "decord_frames", lambda path, numbers: plain(path, np.maximum(numbers - 1, 0))
    )
    rows = benchmark.measure_decoding(folder, rounds=1)
    differing = {row.library for row in rows if row.clips_that_differ and row.case != "first"}
    assert differing == {"decord"}


def test_a_folder_of_clips_that_are_not_read_exactly_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(BenchmarkError, match="no videos that decord and torchcodec read exactly"):
        benchmark.measure_decoding(tmp_path)


def test_copies_are_timed_against_their_originals(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals, copies, results = tmp_path / "originals", tmp_path / "copies", tmp_path / "gain.json"
    shutil.copytree(folder, originals)
    reencode(originals, copies, Encoding(side=32, gop=4))
    (originals / "other.mp4").write_bytes((originals / "000.mp4").read_bytes())  # has no copy
    read: list[tuple[Path, ...]] = []
    plain = benchmark._fibo_frames
    monkeypatch.setattr(
        benchmark, "_fibo_frames", lambda path, *rest, **kw: (read.append(path), plain(path, *rest, **kw))[1]
    )
    arguments = [
        "--clips",
        str(originals),
        "--reencoded",
        str(copies),
        "--rounds",
        "1",
        "--json",
        str(results),
    ]
    outcome = CliRunner().invoke(app, ["bench", "decoding", *arguments])
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads(results.read_text())["rows"]
    assert {(row["case"], row["library"]) for row in rows} == {
        (case, library) for case in CASES for library in ("fibo", "fibo_reencoded")
    }
    assert all(row["clips"] == 2 and row["clips_that_differ"] is None for row in rows)
    assert all(row["speedup"] == 1 for row in rows if row["library"] == "fibo")
    assert set(read) == {folder / name for folder in (originals, copies) for name in ("000.mp4", "001.mp4")}


def test_copies_of_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no copy of a video"):
        benchmark.measure_reencoding(folder, tmp_path)
    outcome = CliRunner().invoke(app, ["bench", "decoding", "--reencoded", str(tmp_path)])
    assert isinstance(outcome.exception, BenchmarkError) and "--clips" in str(outcome.exception)
