"""The video benchmark reads the same frames everywhere, loses no clip, and prints the right ceiling."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.video import models
from fibo_robot.benchmarks.video import pipeline as benchmark
from fibo_robot.cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    benchmark.write_clips(path, count=3, length=20, size=(64, 96))
    return path


def test_decoders_and_pipeline_see_the_same_frames(folder: Path) -> None:
    clips = benchmark._readable(folder)
    assert len(clips) == 3
    pipeline = benchmark._Pipeline(list(clips))
    for number, (path, indices) in enumerate(clips.items()):
        decord, pyav = benchmark.decord_frames(path, indices), benchmark.pyav_frames(path, indices)
        assert decord.shape == (benchmark.FRAMES, 64, 96, 3)
        assert np.abs(decord.astype(int) - pyav).max() <= 1
        frames = pipeline._frames(number, np.random.default_rng(0)).permute(0, 2, 3, 1).numpy()
        assert np.abs(decord.astype(int) - frames).max() <= 1


def test_command_writes_a_row_per_reader(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "video.json"
    arguments = ["--only", "pipeline", "--rounds", "1", "--workers", "1", "--clips", str(folder)]
    outcome = CliRunner().invoke(app, ["bench", "video", *arguments, "--json", str(results)])
    assert outcome.exit_code == 0, outcome.output
    rows = {row["case"]: row for row in json.loads(results.read_text())["rows"]}
    assert set(rows) == {"fibo_pipeline", "decord", "pyav"}
    assert rows["decord"]["speedup_vs_decord"] == rows["pyav"]["speedup_vs_pyav"] == 1
    for row in rows.values():
        assert row["clips"] == 3 and row["clips_per_s"] > 0
    assert rows["fibo_pipeline"]["speedup_vs_decord"] == pytest.approx(
        rows["fibo_pipeline"]["clips_per_s"] / rows["decord"]["clips_per_s"]
    )
    for row in rows.values():  # of one round: the faster decoder is the harder rival
        assert row["speedup"] == min(row["speedup_vs_decord"], row["speedup_vs_pyav"])


def test_a_clip_that_is_not_read_stops_the_measurement(folder: Path) -> None:
    clips = list(benchmark._readable(folder))
    loader = benchmark._loader(benchmark._Pipeline([*clips, folder / "absent.mp4"]), workers=0)
    with pytest.raises(BenchmarkError, match="3 of 4 clips"):
        benchmark._drain(loader, 4)


def test_folder_without_readable_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(BenchmarkError, match="holds no videos"):
        benchmark.measure_pipeline(tmp_path)


def test_model_rows_tell_tokens_and_what_free_attention_gives() -> None:
    torch.manual_seed(0)
    rows = models.measure_models(frames=(4,), image_size=32, rounds=1)
    assert [row.case for row in rows] == ["softmax", "fibottention", "castling", "free"]
    assert all(row.tokens == 2 * 2 * 2 for row in rows)
    # ViT-S: per layer 12 N D^2 multiply-adds beside attention's 2 N^2 D.
    assert rows[0].attention_share == pytest.approx(2 * 8**2 * 384 / (12 * 8 * 384**2 + 2 * 8**2 * 384))
    assert rows[0].speedup_vs_dense == rows[-1].of_free == 1
    assert rows[0].of_free == pytest.approx(1 / rows[-1].speedup_vs_dense)  # of one round
