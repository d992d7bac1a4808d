"""Windows over long videos, streams and the overlay: times, order, bounds, and what is drawn."""

import csv
import functools
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fibo_robot.attention import create_attention
from fibo_robot.attention.maps import OverlayError, received_attention
from fibo_robot.attention.reference import dense_mask
from fibo_robot.encoders import create_video_encoder
from fibo_robot.errors import FiboError
from fibo_robot.video import VideoReader
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.inference.overlay import attention_map
from fibo_robot.video.inference.predict import Score
from fibo_robot.video.inference.streams import FrameBuffer, FrameStream, StreamError, classify_stream
from fibo_robot.video.inference.windows import (
    Segment,
    SlidingWindow,
    TimelineError,
    WindowScores,
    classify_windows,
    merge_windows,
)
from tests.video import clips
from tests.video.command_line import run

RATE = 10


class Brightness(nn.Module):
    """Stands in for an encoder: whether the first or the last frame of a clip is brighter, and how bright."""

    frames, image_size = 4, (16, 16)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        level = pictures.float().mean((2, 3, 4))
        return torch.stack([level[:, 0] - level[:, -1], level[:, -1] - level[:, 0]], 1)


@pytest.fixture
def classifier() -> VideoClassifier:
    """Says `falling` or `rising`, which it knows from the pictures alone."""
    model = VideoClassifier(
        lambda: create_video_encoder("vit_micro", mode="frames", frames=4, image_size=16, patch_size=8),
        ["falling", "rising"],
    ).eval()
    stand_in = Brightness()
    model.forward = stand_in.forward
    return model


@pytest.fixture(scope="module")
def rise_and_fall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds that get brighter for three seconds and darker for three."""
    levels = np.concatenate([np.linspace(40, 200, 30), np.linspace(200, 40, 30)])
    frames = np.broadcast_to(levels[:, None, None, None], (60, 64, 96, 3)).astype(np.uint8)
    return clips.write_video(
        tmp_path_factory.mktemp("long") / "long.mp4", frames, rate=RATE, options={"g": "10"}
    )


def labels(windows: list[WindowScores]) -> list[str]:
    return [window.scores[0].label for window in windows]


def test_windows_name_what_happens_in_each(classifier: VideoClassifier, rise_and_fall: Path) -> None:
    windows = list(classify_windows(classifier, rise_and_fall, SlidingWindow(1.0)))
    assert [(w.start, w.end) for w in windows] == [(float(s), float(s + 1)) for s in range(6)]
    assert labels(windows) == ["rising"] * 3 + ["falling"] * 3
    segments = merge_windows(windows, 1.0)
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 3, "rising"), (3, 6, "falling")]


def test_a_video_shorter_than_the_window_is_one_window(
    classifier: VideoClassifier, rise_and_fall: Path
) -> None:
    (window,) = classify_windows(classifier, rise_and_fall, SlidingWindow(60.0))
    assert (window.start, window.end) == (0, pytest.approx(6))


def test_overlapping_windows_tile_the_time_without_gap_or_overlap() -> None:
    scores = {"a": (Score("a", 0.6),), "b": (Score("b", 0.9),)}
    windows = [WindowScores(s, s + 2, scores[label]) for s, label in ((0, "a"), (1, "a"), (2, "b"), (3, "a"))]
    assert merge_windows(windows, 1.0) == [
        Segment(0, 2.5, "a", 0.6),
        Segment(2.5, 3.5, "b", 0.9),
        Segment(3.5, 5, "a", 0.6),
    ]


@pytest.mark.parametrize("given", [(0,), (-1,), (1, 0)])
def test_lengths_of_time_are_positive(given: tuple[float, ...]) -> None:
    with pytest.raises(TimelineError, match="more than 0"):
        SlidingWindow(*given)


@pytest.fixture
def address(rise_and_fall: Path) -> Iterator[str]:
    """The video behind Python's http server on the loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(rise_and_fall.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{rise_and_fall.name}"
        server.shutdown()


def test_a_stream_gives_the_windows_of_its_file(
    classifier: VideoClassifier, rise_and_fall: Path, address: str
) -> None:
    window = SlidingWindow(1.0, 0.5)
    streamed = list(classify_stream(classifier, address, window))
    from_file = list(classify_windows(classifier, rise_and_fall, window))
    assert [(w.start, labels([w])) for w in streamed] == [(w.start, labels([w])) for w in from_file]
    limited = list(classify_stream(classifier, str(rise_and_fall), SlidingWindow(1.0), seconds=2.5))
    assert [w.end for w in limited] == [1, 2]


def test_a_stream_that_ends_too_early_or_is_absent_is_said(
    classifier: VideoClassifier, rise_and_fall: Path
) -> None:
    with pytest.raises(StreamError, match=r"before the first window of 10 s"):
        list(classify_stream(classifier, str(rise_and_fall), SlidingWindow(10.0)))
    with pytest.raises(StreamError, match=r"camera:99 cannot be opened.*plugged in"):
        list(classify_stream(classifier, "camera:99", SlidingWindow(1.0)))
    with pytest.raises(StreamError, match=r"127\.0\.0\.1:9.*sender"):
        list(classify_stream(classifier, "http://127.0.0.1:9/x.mp4", SlidingWindow(1.0)))


def test_a_live_source_pushes_out_old_frames_and_a_patient_one_waits(rise_and_fall: Path) -> None:
    live, patient = FrameStream(str(rise_and_fall)), FrameStream(str(rise_and_fall))
    assert patient.fps == RATE and not patient.live
    live.live = True  # as a camera is
    buffer = FrameBuffer(live, capacity=5, spacing=0.0)
    assert buffer.wait_until(100.0) == pytest.approx(5.9)  # it has run to its end, whoever reads
    assert len(buffer) == 5
    newest = VideoReader(rise_and_fall).read([55, 59])
    np.testing.assert_allclose(buffer.at(np.array([5.5, 5.9])), newest, atol=2)
    buffer.close()

    buffer = FrameBuffer(patient, capacity=5, spacing=0.0)
    deadline = time.monotonic() + 10
    while len(buffer) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(buffer) == 5 and buffer.wait_until(0.4) < 0.6  # the sixth frame waits for room
    buffer.release(0.3)
    assert buffer.wait_until(0.7) >= 0.7
    buffer.close()


def test_the_command_writes_a_timeline(checkpoint: Path, rise_and_fall: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "t.jsonl", "--csv", tmp_path / "t.csv")
    status, out, _ = run("classify", checkpoint, rise_and_fall, "--window", 2, "--stride", 1, *files)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert status == 0 and "from (s)" in out
    assert [row["start"] for row in rows[:-1]] == [0, 1, 2, 3, 4]
    assert rows[-1]["segments"][0]["start"] == 0 and rows[-1]["segments"][-1]["end"] == 6
    with (tmp_path / "t.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert sum(row["kind"] == "window" for row in table) == 5 * 3
    assert {row["label"] for row in table if row["kind"] == "segment"} <= {"left", "right", "up"}


def test_the_command_reads_a_stream(checkpoint: Path, address: str) -> None:
    status, out, _ = run("classify", checkpoint, address, "--window", 1, "--seconds", 3, "--json", "-")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["end"] for row in rows[:-1]] == [1, 2, 3]
    assert rows[-1]["segments"][-1]["end"] == 3


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--stride", "1"], "--window"),
        (["--seconds", "1"], "--seconds"),
        (["--window", "1", "--views", "2"], "--views"),
        (["camera:0"], "alone"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    checkpoint: Path,
    rise_and_fall: Path,
    more: list[str],
    named: str,
) -> None:
    with pytest.raises(FiboError, match=named):
        run("classify", checkpoint, rise_and_fall, *more)


@pytest.mark.parametrize("name", ["softmax", "fibottention", "castling"])
def test_received_attention_is_the_column_sums_of_the_attention_matrix(name: str) -> None:
    core = create_attention(name, 32, 4, layer_index=1, num_prefix_tokens=1, grid=(2, 3, 3)).core.eval()
    q, k, v = torch.randn(3, 2, 4, 19, 8)
    if name == "softmax":
        matrix = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    elif name == "castling":
        cosines = nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).transpose(-1, -2)
        matrix = cosines / torch.pi + torch.eye(19) / 2
    else:
        mask = dense_mask(core.offsets(19), 19, num_prefix_tokens=1)
        matrix = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    received = received_attention(core, q, k, v, num_prefix_tokens=1)
    torch.testing.assert_close(received, matrix[:, :, 1:].sum(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "divided", "frames"])
def test_the_map_has_a_value_for_every_patch_and_frame(mode: str) -> None:
    encoder = create_video_encoder("vit_micro", mode=mode, frames=4, tubelet=2, image_size=32, patch_size=8)
    heat = attention_map(encoder.eval(), torch.rand(4, 3, 32, 32))
    assert heat.shape == (2, 4, 4) and heat.min() == 0 and heat.max() == 1
    with pytest.raises(OverlayError, match="layer 9"):
        attention_map(encoder, torch.rand(4, 3, 32, 32), layer=9)


def test_the_overlay_is_the_video_with_something_on_it(
    checkpoint: Path,
    rise_and_fall: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / "out.mp4"
    status, _, _ = run(
        "classify", checkpoint, rise_and_fall, "--window", 3, "--stride", 2, "--overlay", target
    )
    assert status == 0
    plain, drawn = VideoReader(rise_and_fall), VideoReader(target)
    assert len(drawn) == len(plain) and drawn.fps == pytest.approx(plain.fps)
    numbers = [5, 20, 40, 55]
    pictures = drawn.read(numbers).astype(int)
    assert pictures.shape == (4, 384, 576, 3)
    change = np.abs(pictures - plain.read(numbers).mean((1, 2, 3), keepdims=True))
    assert change[:, 200:, 5:60].mean() < 5  # left of the square that the classifier saw, below the words
    assert change[:, 200:, 96:-96].max() > 30
    with pytest.raises(OverlayError, match=r"out\.mp4"):
        run("classify", checkpoint, rise_and_fall, "--overlay", tmp_path / "out.gif")
