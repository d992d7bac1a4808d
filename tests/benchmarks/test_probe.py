"""Probes: learn what lies in the order of frames, know no test clip, and keep features between runs."""

import numpy as np
import pytest
import torch

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.probe import ProbeRecipe, cross_validate, frame_features, summarise
from fibo_robot.encoders import create_encoder
from fibo_robot.video.clip_table import ClipTable, LabelledClip

RECIPE = ProbeRecipe(components=4, width=32, depth=1, dropout=0.0, epochs=40, batch_size=16, lr=0.005)


def table_of(count, folds=2):
    clips = (LabelledClip(f"{i}.mp4", "up" if i % 2 else "down", str(i // 2 % folds)) for i in range(count))
    return ClipTable(tuple(clips), "made up")


def ramps(table):
    """Features that rise in one class and fall in the other: single frames and their mean tell nothing."""
    ramp = torch.linspace(-1, 1, 8)[None, :, None] * torch.tensor([1.0, 0.3, 0.0, 0.0, 0.0])
    sign = torch.tensor([1.0 if clip.label == "up" else -1.0 for clip in table.clips])
    return sign[:, None, None] * ramp + 0.1 * torch.randn(len(table.clips), 8, 5)


def test_order_is_learned_and_the_control_cannot():
    table = table_of(64)
    rows = list(cross_validate(ramps(table), table, ["softmax", "castling"], [0], RECIPE))
    assert {(row.fold, row.clips) for row in rows} == {("0", 32), ("1", 32)}
    for summary in summarise(rows):
        assert summary.mean < 0.75 if summary.shuffled else summary.mean > 0.95


def test_same_seed_same_result():
    table = table_of(32)
    features = ramps(table)
    first, second = (list(cross_validate(features, table, ["fibottention"], [3], RECIPE)) for _ in range(2))
    assert first == second


def test_one_fold_is_refused():
    table = table_of(8, folds=1)
    with pytest.raises(BenchmarkError, match="two folds"):
        next(cross_validate(ramps(table), table, ["softmax"], [0], RECIPE))


def test_features_are_kept_and_not_mixed_up(tmp_path, monkeypatch):
    class Reader:
        opened = 0

        def __init__(self, path):
            Reader.opened += 1

        def __len__(self):
            return 5

        def read(self, indices):
            return np.full((len(indices), 90, 80, 3), 7, np.uint8)

    monkeypatch.setattr("fibo_robot.benchmarks.probe.VideoReader", Reader)
    encoder, table, cache = create_encoder("vit_micro"), table_of(3), tmp_path / "features.safetensors"
    first = frame_features(table, encoder, 4, cache, "weights")
    assert first.shape == (3, 4, 128) and Reader.opened == 3
    assert torch.equal(frame_features(table, encoder, 4, cache, "weights"), first) and Reader.opened == 3
    with pytest.raises(BenchmarkError, match="other clips, weights or settings"):
        frame_features(table, encoder, 4, cache, "other weights")
    cache.write_bytes(b"no features")
    with pytest.raises(BenchmarkError, match="holds no features"):
        frame_features(table, encoder, 4, cache, "weights")
