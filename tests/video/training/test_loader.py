"""Batches from worker processes: the same as without, kept apart, also after an epoch that was left early."""

from pathlib import Path

import pytest
import torch

from fibo_robot.errors import FiboError
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.decode import VideoDecodeError
from fibo_robot.video.training.clips import ClipDataset
from fibo_robot.video.training.loader import ClipLoader
from fibo_robot.video.training.sampling import ClipSampling, Cropping

BATCHES = [
    [(index, draw) for index in range(start, min(start + 4, 26))]
    for draw, start in enumerate(range(0, 26, 4))
]

LABELS = ["broken", "left", "right"]


@pytest.fixture(scope="module")
def clips(motion_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipDataset:
    """24 clips, a broken one among them, and two more: seven batches of four, the last of two."""
    broken = tmp_path_factory.mktemp("broken") / "broken.mp4"
    broken.write_bytes(b"no video")
    files = sorted(motion_clips.glob("*.mp4"))
    files = [*files[:5], broken, *files[5:], files[0]]
    listed = [LabelledClip(file, (file.stem.split("_")[0],)) for file in files]
    return ClipDataset(listed, LABELS, ClipSampling(frames=5), Cropping(), 24, training=True, seed=3)


def loader(clips: ClipDataset, workers: int) -> ClipLoader:
    return ClipLoader(clips, BATCHES, batch_size=4, num_workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_batches_can_be_kept(clips: ClipDataset, workers: int) -> None:
    expected = list(loader(clips, 0))
    assert [len(batch["clips"]) for batch in expected] == [4, 3, 4, 4, 4, 4, 2]
    assert [len(batch["broken"]) for batch in expected] == [0, 1, 0, 0, 0, 0, 0]
    several = loader(clips, workers)
    for _ in range(2):  # epochs
        kept = list(several)
        assert len(kept) == len(expected) == len(several)
        for batch, wanted in zip(kept, expected, strict=True):
            assert torch.equal(batch["clips"], wanted["clips"])
            assert batch["clips"].stride() == wanted["clips"].stride()  # or a model might round differently
            assert torch.equal(batch["labels"], wanted["labels"]) and batch["broken"] == wanted["broken"]


def test_an_epoch_left_early_does_not_disturb_the_next(clips: ClipDataset) -> None:
    expected = list(loader(clips, 0))
    several = loader(clips, 2)
    for stop in (1, 2, 3):
        for number, batch in enumerate(several):
            assert torch.equal(batch["clips"], expected[number]["clips"])
            if number == stop:
                break
    assert all(torch.equal(a["clips"], b["clips"]) for a, b in zip(several, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_broken_clips_trains_on_the_next_one(clips: ClipDataset, workers: int) -> None:
    (batch,) = ClipLoader(clips, [[(5, 0)]], batch_size=4, num_workers=workers)
    assert [clip.path.name for clip in batch["broken"]] == ["broken.mp4"]
    stand_in = clips[6, 0]
    assert isinstance(stand_in, tuple)
    assert torch.equal(batch["clips"], stand_in[0][None]) and batch["labels"].tolist() == [stand_in[1]]


@pytest.mark.parametrize("workers", [0, 1])
def test_in_evaluation_nothing_stands_in_for_broken_clips(clips: ClipDataset, workers: int) -> None:
    held_out = ClipDataset(clips.clips, LABELS, clips.sampling, clips.cropping, 24, training=False)
    (batch,) = ClipLoader(held_out, [[(5, 5)]], batch_size=4, num_workers=workers)
    assert len(batch["clips"]) == len(batch["labels"]) == 0 and len(batch["broken"]) == 1


def test_clips_of_which_none_can_be_read_are_an_error(clips: ClipDataset) -> None:
    broken = ClipDataset(
        [clips.clips[5]] * 3, LABELS, clips.sampling, clips.cropping, 24, training=True, seed=3
    )
    with pytest.raises(VideoDecodeError, match=r"None of 3 clips could be read.*no video"):
        list(ClipLoader(broken, [[(0, 0)]], batch_size=4))


def test_too_little_shared_memory_is_said(clips: ClipDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: torch.Tensor) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(FiboError, match=r"need 0 MiB of shared memory .*No space left.*fewer workers"):
        loader(clips, 1)
