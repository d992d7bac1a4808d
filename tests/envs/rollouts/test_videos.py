"""Videos of episodes play in browsers, say what they show in their name, and stand side by side in a grid."""

from dataclasses import replace

import av
import numpy as np
import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.rollouts.videos import (
    VideoSpec,
    VideoWriteError,
    encode_mp4,
    video_name,
    write_grid,
    write_video,
)
from tests.envs.toy_task import ToyTask


def picture_frames(shade, frames, size=32):
    return [np.full((size, size, 3), shade + 2 * index, np.uint8) for index in range(frames)]


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return (
            stream.codec_context.name,
            stream.codec_context.pix_fmt,
            float(stream.average_rate or 0),
            frames,
        )


def test_a_video_is_h264_in_yuv420p_with_every_frame_in_order(tmp_path):
    write_video(tmp_path / "a.mp4", encode_mp4(picture_frames(60, 12), fps=10))
    codec, pixels, fps, frames = decode(tmp_path / "a.mp4")
    assert (codec, pixels, fps, len(frames)) == ("h264", "yuv420p", 10.0, 12)
    assert [frame.mean() for frame in frames] == pytest.approx([60 + 2 * i for i in range(12)], abs=3)


def test_the_same_frames_become_the_same_file_whatever_lay_in_memory_before():
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (12, 12, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    frames = [texture[2 * step : 2 * step + 96, step : step + 96] for step in range(16)]
    files = set()
    for _ in range(8):
        memory = [rng.integers(0, 255, size, np.uint8) for size in rng.integers(1000, 400_000, 50)]
        del memory
        files.add(encode_mp4(frames, fps=10))
    assert len(files) == 1


def test_the_name_tells_seed_and_outcome():
    assert video_name(7, success=True) == "seed_000007_success.mp4"
    assert video_name(7, success=False) == "seed_000007_failure.mp4"
    assert video_name(7, success=False, error=True) == "seed_000007_error.mp4"


def test_a_grid_shows_all_videos_until_the_longest_ends(tmp_path):
    paths = []
    for index, (shade, frames) in enumerate([(40, 3), (120, 6), (200, 2)]):
        paths.append(tmp_path / f"{index}.mp4")
        write_video(paths[-1], encode_mp4(picture_frames(shade, frames), fps=10))
    write_grid(paths, tmp_path / "grid.mp4")
    *_, frames = decode(tmp_path / "grid.mp4")
    assert len(frames) == 6
    last = frames[-1]
    assert last.shape == (64, 64, 3)
    corners = [last[8:24, 8:24], last[8:24, 40:56], last[40:56, 8:24], last[40:56, 40:56]]
    assert [corner.mean() for corner in corners] == pytest.approx([44, 130, 202, 0], abs=6)


def test_a_video_that_cannot_be_written_says_which_and_why(tmp_path):
    (tmp_path / "videos").write_text("a file where the folder should be")
    with pytest.raises(VideoWriteError, match=r"seed_000001_success\.mp4"):
        write_video(tmp_path / "videos" / "seed_000001_success.mp4", b"")


@pytest.mark.parametrize(("control_freq", "every", "fps"), [(20, 2, 10), (10, 1, 10), (5, 1, 5), (25, 2, 12)])
def test_episodes_are_filmed_in_real_time_whatever_a_tasks_rate(control_freq, every, fps):
    task = replace(ToyTask(), control_freq=control_freq)
    assert VideoSpec.in_real_time(task) == VideoSpec(task.cameras[0], every=every, fps=fps)
    assert get_task("pusht").control_freq == 10


def test_a_size_that_h264_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="even number"):
        VideoSpec("agentview", size=81)
