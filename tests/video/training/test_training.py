"""Training a classifier: it learns motion, resumes exactly, keeps its labels, and names broken clips."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import resize

from fibo_robot.training.checkpoint import CheckpointError
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.video import VideoReader, load_classifier, predict
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.training.augmentation import AugmentationError, BatchAugmentation
from fibo_robot.video.training.clips import ClipDataset, Sample, collate_clips, new_clips
from fibo_robot.video.training.data import TooManyBrokenClipsError, VideoData
from fibo_robot.video.training.sampling import ClipSampling, Cropping, SamplingError
from tests.video import clips

TINY = [
    "experiment=video_skills",
    "trainer.check_val_every_n_epoch=1",
    "trainer.checkpoint_every_n_epochs=1",
    "encoder.image_size=32",
    "encoder.patch_size=8",
    "encoder.frames=4",
    "encoder.tubelet=4",
    "data.cache_side=32",
    "data.batch_size=8",
]


def tiny_run(clips: Path, run_dir: Path, *more: str) -> Path:
    return train_from_overrides([*TINY, f"data.root={clips}", f"run_dir={run_dir}", *more])


@pytest.mark.slow
def test_classifier_learns_motion_that_single_frames_do_not_show(motion_clips: Path, tmp_path: Path) -> None:
    schedule = ["data.steps_per_epoch=40", "trainer.max_epochs=3", "optimizer.warmup_steps=10"]
    run = tiny_run(motion_clips, tmp_path / "video", *schedule)
    assert json.loads((run / "history.json").read_text())[-1]["valid/accuracy"] >= 0.9

    classifier = load_classifier(run)
    assert classifier.labels == ["left", "right"]
    held_out = [clip for clip in read_clips(motion_clips).clips if clip.split == "test"]
    predictions = list(predict(classifier, [clip.path for clip in held_out]))
    right = sum(p.scores[0].label == clip.label for p, clip in zip(predictions, held_out))
    assert right >= 7
    assert all(sum(s.probability for s in p.scores) == pytest.approx(1) for p in predictions)


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(motion_clips: Path, tmp_path: Path) -> None:
    schedule = [
        "data.steps_per_epoch=3",
        "classifier.augmentation.horizontal_flip=0.5",
        "classifier.classifier.dropout=0.2",
    ]
    whole = tiny_run(motion_clips, tmp_path / "whole", *schedule, "trainer.max_epochs=2")

    class KilledError(Exception):
        pass

    plain, steps = BatchAugmentation.forward, []

    def dies_in_the_second_epoch(self: BatchAugmentation, *inputs):
        steps.append(0)
        if len(steps) == 5:
            raise KilledError
        return plain(self, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchAugmentation, "forward", dies_in_the_second_epoch)
        with pytest.raises(KilledError):
            tiny_run(motion_clips, tmp_path / "killed", *schedule, "trainer.max_epochs=2")
    killed = tiny_run(motion_clips, tmp_path / "killed", *schedule, "trainer.max_epochs=2")
    first, second = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (whole / "history.json").read_text() == (killed / "history.json").read_text()


def dataset(clips: Path, training: bool, **options) -> ClipDataset:
    table = read_clips(clips)
    return ClipDataset(
        table.part("train"),
        table.labels,
        ClipSampling(frames=4),
        Cropping(),
        32,
        training=training,
        **options,
    )


def read(data: ClipDataset, index: int, draw: int) -> Sample:
    """A sample of a clip that is not broken."""
    item = data[index, draw]
    assert isinstance(item, tuple)
    return item


def test_samples_follow_from_seed_and_draw_alone(motion_clips: Path) -> None:
    data = dataset(motion_clips, training=True)
    first, label = read(data, 0, 7)
    assert first.shape == (4, 3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, read(dataset(motion_clips, training=True), 0, 7)[0])
    assert not torch.equal(first, read(data, 0, 8)[0])
    assert label == data.targets[0]


def test_cached_and_decoded_clips_are_the_same(motion_clips: Path) -> None:
    decoded, cached = (dataset(motion_clips, training=True, cache_side=side) for side in (None, 32))
    assert torch.equal(read(decoded, 3, 5)[0], read(cached, 3, 5)[0])


def test_shuffled_control_has_the_same_frames_in_another_order(motion_clips: Path) -> None:
    kept, shuffled = (
        read(dataset(motion_clips, training=False, shuffle_frames=s), 0, 0)[0] for s in (False, True)
    )
    assert not torch.equal(kept, shuffled)
    assert sorted(f.float().mean().item() for f in kept) == sorted(f.float().mean().item() for f in shuffled)
    assert {f.numpy().tobytes() for f in kept} == {f.numpy().tobytes() for f in shuffled}


@pytest.fixture
def half_broken(motion_clips: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(motion_clips, folder)
    for name in ("left_8.mp4", "right_9.mp4"):
        (folder / name).write_bytes(b"no video")
    return folder


@pytest.mark.parametrize("cache_side", [None, 32])
def test_broken_clips_are_left_out_and_named(half_broken: Path, cache_side: int | None) -> None:
    data = VideoData(
        str(half_broken), ClipSampling(), Cropping(), 32, cache_side=cache_side, max_bad_fraction=0.1
    )
    data.setup("fit")
    assert data.train is not None
    batch = collate_clips([data.train[index, index] for index in range(4)], new_clips(4, 8, 3, 32, 32))
    assert batch["clips"].shape[0] == len(batch["labels"]) == 2
    with pytest.warns(UserWarning, match=r"left_8\.mp4"):
        data.on_before_batch_transfer(batch, 0)
    data.max_bad_fraction = 0.05
    with pytest.raises(TooManyBrokenClipsError, match=r"2 of 24[\s\S]*right_9\.mp4"):
        data.on_before_batch_transfer(batch, 0)


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_training_goes_on_past_a_batch_of_broken_clips(
    half_broken: Path, tmp_path: Path, accumulate: str
) -> None:
    alone = ["data.batch_size=1", "data.steps_per_epoch=32", f"trainer.accumulate_grad_batches={accumulate}"]
    (half_broken / "left_0.mp4").write_bytes(b"no video")  # in validation, too
    with pytest.warns(UserWarning, match="left out"):
        run = tiny_run(
            half_broken, tmp_path / "run", *alone, "trainer.max_epochs=1", "data.max_bad_fraction=0.2"
        )
    (row,) = json.loads((run / "history.json").read_text())
    assert row["step"] == 32 // int(accumulate)
    classes = json.loads((run / "validation" / "per_class.json").read_text())["classes"]
    assert {name: found["videos"] for name, found in classes.items()} == {"left": 3, "right": 4}


def test_whole_clips_are_scaled_frame_by_frame(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3)).astype(np.uint8)
    path = clips.write_video(tmp_path / "clip.mp4", frames)
    data = ClipDataset(
        [LabelledClip(path, ("a",))],
        ["a"],
        ClipSampling(frames=9),
        Cropping(),
        24,
        training=False,
        cache_side=24,
    )
    cut, _ = read(data, 0, 0)
    whole = torch.from_numpy(VideoReader(path).read(range(9))).permute(0, 3, 1, 2)
    expected = resize(whole, [24], antialias=True)[..., 4:28]
    assert torch.equal(cut, expected)


def test_frames_that_are_not_square_are_refused(motion_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(SamplingError, match="squares"):
        tiny_run(motion_clips, tmp_path / "run", "encoder.image_size=[32,48]")
    assert VideoData(str(motion_clips), ClipSampling(), Cropping(), [32, 32]).image_size == 32


def test_prediction_of_a_broken_file_is_an_error_for_that_file_only(
    motion_clips: Path, half_broken: Path
) -> None:
    from fibo_robot.encoders import create_video_encoder
    from fibo_robot.video.classifier import VideoClassifier

    classifier = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="joint", frames=4, image_size=32, patch_size=8),
        ["a", "b"],
    ).eval()
    paths = [motion_clips / "left_0.mp4", half_broken / "left_8.mp4", motion_clips / "right_1.mp4"]
    good, bad, last = predict(classifier, (path for path in paths))
    assert good.error is None and last.error is None and len(good.scores) == 2
    assert bad.scores == () and bad.error is not None and "left_8.mp4" in bad.error
    for one in (paths[0], str(paths[0])):
        assert list(predict(classifier, one)) == [good]


def test_policy_checkpoint_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No checkpoint"):
        load_classifier(tmp_path / "absent")


def test_soft_targets_are_distributions_and_mixing_mixes_both() -> None:
    clips = torch.randint(0, 256, (4, 3, 3, 16, 16), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    mixed = BatchAugmentation(mixup_alpha=1.0, label_smoothing=0.1)(clips, labels, 3)
    assert mixed.clips.dtype == torch.float32 and mixed.clips.min() >= 0 and mixed.clips.max() <= 1
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))
    assert (mixed.targets.max(1).values < 0.96).all()
    plain = BatchAugmentation()(clips, labels, 3)
    assert torch.equal(plain.clips, clips.float() / 255)
    assert plain.targets.argmax(1).tolist() == labels.tolist()


def test_random_erasing_puts_noise_into_a_part_of_a_clip() -> None:
    grey = torch.full((64, 2, 3, 32, 32), 128, dtype=torch.uint8)
    changed = BatchAugmentation(random_erasing=0.25)(grey, torch.zeros(64, dtype=torch.int64), 2).clips
    erased = (changed - 128 / 255).abs() > 1e-5
    share = erased.float().mean((1, 2, 3, 4))
    assert 4 <= (share > 0).sum() <= 28  # a quarter of 64, within 3.5 standard deviations
    assert share[share > 0].min() > 0.01 and share.max() < 0.36
    noise = changed[erased]  # normal around the mean colour, its deviation about a quarter
    assert 0.3 < noise.mean() < 0.6 and 0.18 < noise.std() < 0.28


def test_every_frame_of_a_clip_is_changed_alike() -> None:
    still = torch.randint(0, 256, (1, 1, 3, 16, 16), dtype=torch.uint8).expand(6, 5, -1, -1, -1)
    changed = BatchAugmentation(horizontal_flip=0.5, rand_augment_ops=2, brightness=0.4)(
        still, torch.zeros(6, dtype=torch.int64), 2
    ).clips
    assert all(torch.equal(clip[0], frame) for clip in changed for frame in clip)
    assert len({clip.numpy().tobytes() for clip in changed}) > 1


@pytest.mark.parametrize(
    "options", [{"random_erasing": 2}, {"label_smoothing": -0.1}, {"mixup_alpha": -1}, {"brightness": -1}]
)
def test_augmentation_that_cannot_be_is_refused_before_training(options: dict[str, Any]) -> None:
    with pytest.raises(AugmentationError, match=next(iter(options))):
        BatchAugmentation(**options)
