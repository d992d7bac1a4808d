"""Which frames and crops a clip is made of."""

import numpy as np
import pytest

from fibo_robot.video.reading.frame_numbers import at_even_times
from fibo_robot.video.training.sampling import ClipSampling, Cropping, SamplingError
from tests.properties import given, st

counts = st.integers(1, 300)


@given(
    counts, st.integers(1, 40), st.integers(1, 40), st.sampled_from(["uniform", "dense"]), st.integers(0, 9)
)
def test_clips_are_ascending_frames_of_the_video(num_frames, frames, rate, kind, seed):
    sampling = ClipSampling(kind, frames, rate)
    for clip in [sampling.random(num_frames, np.random.default_rng(seed)), *sampling.views(num_frames, 3)]:
        assert clip.shape == (frames,)
        assert clip.min() >= 0 and clip.max() < num_frames
        assert (np.diff(clip) >= 0).all()


def test_uniform_takes_one_frame_of_each_segment():
    sampling = ClipSampling("uniform", 4)
    for seed in range(20):
        clip = sampling.random(40, np.random.default_rng(seed))
        assert (clip // 10).tolist() == [0, 1, 2, 3]
    assert sampling.views(40)[0].tolist() == [5, 15, 25, 35]


def test_dense_keeps_its_rate_and_its_views_reach_both_ends():
    sampling = ClipSampling("dense", 8, 4)
    assert set(np.diff(sampling.random(100, np.random.default_rng(0)))) == {4}
    first, middle, last = sampling.views(100, 3)
    assert first[0] == 0 and last[-1] == 99
    np.testing.assert_array_equal(middle, sampling.views(100)[0])


def test_every_dense_start_is_equally_likely():
    generator = np.random.default_rng(0)
    starts = [ClipSampling("dense", 4, 2).random(9, generator)[0] for _ in range(3000)]
    counts = np.bincount(starts, minlength=3)  # 9 frames leave a clip of 7 three places to begin
    assert len(counts) == 3 and np.abs(counts - 1000).max() < 110  # four standard deviations


def test_short_videos_repeat_frames():
    assert ClipSampling("uniform", 8).views(3)[0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert ClipSampling("dense", 4, 2).views(3)[0].tolist() == [0, 2, 2, 2]
    assert ClipSampling("uniform", 4).views(1)[0].tolist() == [0, 0, 0, 0]


def test_same_generator_state_same_clip():
    sampling = ClipSampling("dense", 8, 2)
    clips = [sampling.random(90, np.random.default_rng([3, 5])).tolist() for _ in range(2)]
    assert clips[0] == clips[1]
    assert len({tuple(sampling.random(90, np.random.default_rng([3, i]))) for i in range(30)}) > 10


def test_uneven_times_are_sampled_evenly_in_time():
    timestamps = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 10.0])  # the grid has a step of 2 seconds
    assert at_even_times(np.arange(6), timestamps).tolist() == [0, 3, 3, 4, 4, 5]
    even = np.arange(7) / 30
    assert at_even_times(np.arange(7), even).tolist() == list(range(7))
    assert at_even_times(np.zeros(3, int), np.zeros(1)).tolist() == [0, 0, 0]


@given(counts, counts, st.integers(0, 20))
def test_crops_lie_inside_the_picture(height, width, seed):
    cropping = Cropping((0.2, 1.0), test_side=0.875)
    for box in [
        cropping.random(height, width, np.random.default_rng(seed)),
        *cropping.test(height, width, 3),
    ]:
        assert box.height >= 1 and box.width >= 1 and box.top >= 0 and box.left >= 0
        assert box.top + box.height <= height and box.left + box.width <= width


def test_three_crops_cover_the_longer_side():
    left, middle, right = Cropping().test(256, 340, 3)
    assert (left.left, middle.left, right.left) == (0, 42, 84)
    assert {box.height for box in (left, middle, right)} == {256}
    assert [box.top for box in Cropping().test(340, 256, 3)] == [0, 42, 84]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        # A config may say anything, whatever the type allows.
        (lambda: ClipSampling("even"), "even"),  # pyright: ignore[reportArgumentType]
        (lambda: ClipSampling(frames=0), "frames"),
        (lambda: ClipSampling().views(9, 0), "views"),
        (lambda: Cropping(train_area=(0.9, 0.5)), "train_area"),
        (lambda: Cropping(test_side=1.5), "test_side"),
    ],
)
def test_impossible_numbers_are_named(make, named):
    with pytest.raises(SamplingError, match=named):
        make()
