"""Probes: learn what lies in the order of frames, know no test clip, and keep features between runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fibo_robot.benchmarks.harness import BenchmarkError, read_results, write_results
from fibo_robot.benchmarks.probe.cross_validation import ProbeRecipe, ProbeRow, cross_validate
from fibo_robot.benchmarks.probe.features import frame_features, motion_features
from fibo_robot.benchmarks.probe.summary import Spread, summarise
from fibo_robot.encoders import create_encoder
from fibo_robot.video.datasets.table import ClipTable, LabelledClip

RECIPE = ProbeRecipe(components=4, width=32, depth=1, dropout=0.0, epochs=40, batch_size=16, lr=0.005)


def spread(mean: Any, sd: Any) -> Spread:
    """One whose numbers may be approximate."""
    return Spread(mean, sd)


def table_of(count, folds=2):
    clips = (
        LabelledClip(Path(f"{i}.mp4"), ("up" if i % 2 else "down",), str(i // 2 % folds))
        for i in range(count)
    )
    return ClipTable(tuple(clips), "made up")


def ramps(table):
    """Features that rise in one class and fall in the other: single frames and their mean tell nothing."""
    ramp = torch.linspace(-1, 1, 8)[None, :, None] * torch.tensor([1.0, 0.3, 0.0, 0.0, 0.0])
    sign = torch.tensor([1.0 if clip.label == "up" else -1.0 for clip in table.clips])
    return sign[:, None, None] * ramp + 0.1 * torch.randn(len(table.clips), 8, 5)


def test_order_is_learned_and_the_control_cannot():
    table = table_of(64)
    inputs = {"ramps": [ramps(table)]}
    rows = list(cross_validate(inputs, table, ["softmax", "castling", "none"], [0], RECIPE))
    assert {(row.fold, row.clips) for row in rows} == {("0", 32), ("1", 32)}
    for summary in summarise(rows):
        assert summary.in_order.mean > 0.95 and summary.shuffled.mean < 0.75


def test_inputs_are_set_side_by_side():
    table = table_of(32)
    noise = torch.randn(32, 8, 6, generator=torch.Generator().manual_seed(0))
    inputs = {"noise": [noise], "both": [noise, ramps(table)]}
    noise_only, both = summarise(list(cross_validate(inputs, table, ["none"], [0], RECIPE)))
    assert noise_only.in_order.mean < 0.75 < 0.9 < both.in_order.mean


def test_same_seed_same_result_and_a_run_goes_on_where_it_stopped():
    table = table_of(32)
    inputs = {"ramps": [ramps(table)]}
    first, second = (list(cross_validate(inputs, table, ["fibottention"], [3], RECIPE)) for _ in range(2))
    assert first == second and len(first) == 4
    assert list(cross_validate(inputs, table, ["fibottention"], [3], RECIPE, done=first[:3])) == first[3:]


def test_one_fold_is_refused():
    table = table_of(8, folds=1)
    with pytest.raises(BenchmarkError, match="two folds"):
        next(cross_validate({"ramps": [ramps(table)]}, table, ["softmax"], [0], RECIPE))


def test_summary_is_of_folds_and_differences_are_paired():
    hits = {  # inputs, attention, shuffled -> hits of 10 in folds 0 and 1, for two seeds each
        ("a", "x", False): ((4, 6), (9, 9)),
        ("a", "x", True): ((3, 3), (5, 5)),
        ("a", "y", False): ((6, 8), (9, 9)),
        ("a", "y", True): ((6, 8), (9, 9)),
    }
    rows = [
        ProbeRow(*key, fold=str(fold), seed=seed, correct=correct, clips=10)
        for key, folds in hits.items()
        for fold, seeds in enumerate(folds)
        for seed, correct in enumerate(seeds)
    ]
    x, y = summarise(rows)
    assert x.in_order == spread(pytest.approx(0.7), pytest.approx(0.4 / 2**0.5))
    assert x.by_order == spread(pytest.approx(0.3), pytest.approx(0.2 / 2**0.5))
    assert x.beyond_first == Spread(0, 0) and y.by_order == Spread(0, 0)
    assert y.beyond_first == spread(pytest.approx(0.1), pytest.approx(0.2 / 2**0.5))


def test_features_are_kept_and_not_mixed_up(tmp_path, monkeypatch):
    class Reader:
        opened = 0

        def __init__(self, path, span=None):
            Reader.opened += 1

        def __len__(self):
            return 5

        def read(self, indices):
            return np.full((len(indices), 90, 80, 3), 7, np.uint8)

    monkeypatch.setattr("fibo_robot.benchmarks.probe.features.open_clip", Reader)
    encoder, table, cache = create_encoder("vit_micro"), table_of(3), tmp_path / "features.safetensors"
    first = frame_features(table, encoder, 4, cache, "weights")
    assert first.shape == (3, 4, 128) and Reader.opened == 3
    assert torch.equal(frame_features(table, encoder, 4, cache, "weights"), first) and Reader.opened == 3
    with pytest.raises(BenchmarkError, match="other clips, weights or settings"):
        frame_features(table, encoder, 4, cache, "other weights")
    cache.write_bytes(b"no features")
    with pytest.raises(BenchmarkError, match="holds no features"):
        frame_features(table, encoder, 4, cache, "weights")


def test_motion_of_whole_clips_is_read(monkeypatch):
    class Reader:
        def __init__(self, path, span=None):
            self.number = int(path.stem)

        def __len__(self):
            return 6 + self.number

        def read(self, indices):
            frames = np.zeros((len(indices), 128, 128, 3), np.uint8)
            for place, index in enumerate(indices):  # clip 1 flickers at its end alone
                frames[place, :32, :32] = 255 * (index // 2 % 2 if index > 3 or self.number == 0 else 0)
            return frames

    monkeypatch.setattr("fibo_robot.benchmarks.probe.features.open_clip", Reader)
    energies = motion_features(table_of(2), 2)
    assert energies.shape == (2, 2, 16)
    assert energies[0, 0, 0] == energies[0, 1, 0] and energies[1, 0, 0] < energies[1, 1, 0]


def test_results_of_other_settings_are_not_gone_on_from(tmp_path):
    results = tmp_path / "probe.json"
    assert read_results(results, {"frames": 4}) == []
    write_results(results, [{"seed": 1}], {"frames": 4, "sizes": (1, 2)})
    assert read_results(results, {"frames": 4, "sizes": (1, 2)}) == [{"seed": 1}]
    with pytest.raises(BenchmarkError, match=r"other settings \(frames\)"):
        read_results(results, {"frames": 5, "sizes": (1, 2)})
    results.write_text("[]")
    with pytest.raises(BenchmarkError, match="no results to go on from"):
        read_results(results, {"frames": 4})
