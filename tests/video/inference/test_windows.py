"""Windows over long videos and streams: times, order and bounds."""

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

from fibo_robot.errors import FiboError
from fibo_robot.video import VideoReader
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.inference.predict import Score
from fibo_robot.video.inference.streams import FrameBuffer, FrameStream, StreamError, classify_stream
from fibo_robot.video.inference.views import square_crops
from fibo_robot.video.inference.windows import (
    Segment,
    SlidingWindow,
    TimelineError,
    WindowScores,
    classify_windows,
    merge_windows,
    score_pictures,
    window_clips,
)
from fibo_robot.video.reading import reader
from fibo_robot.video.reading.clip import open_clip
from tests.video import clips
from tests.video.command_line import run
from tests.video.inference.stand_ins import RATE


def labels(windows: list[WindowScores]) -> list[str]:
    return [window.scores[0].label for window in windows]


def test_windows_name_what_happens_in_each(classifier: VideoClassifier, rise_and_fall: Path) -> None:
    windows = list(classify_windows(classifier, rise_and_fall, SlidingWindow(1.0)))
    assert [(w.start, w.end) for w in windows] == [(float(s), float(s + 1)) for s in range(6)]
    assert labels(windows) == ["rising"] * 3 + ["falling"] * 3
    segments = merge_windows(windows)
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 3, "rising"), (3, 6, "falling")]


def test_a_video_shorter_than_the_window_is_one_window(
    classifier: VideoClassifier, rise_and_fall: Path
) -> None:
    (window,) = classify_windows(classifier, rise_and_fall, SlidingWindow(60.0))
    assert (window.start, window.end) == (0, pytest.approx(6))


def test_overlapping_windows_tile_the_time_without_gap_or_overlap() -> None:
    scores = {"a": (Score("a", 0.6),), "b": (Score("b", 0.9),)}
    windows = [WindowScores(s, s + 2, scores[label]) for s, label in ((0, "a"), (1, "a"), (2, "b"), (3, "a"))]
    assert merge_windows(windows) == [
        Segment(0, 2.5, "a", 0.6),
        Segment(2.5, 3.5, "b", 0.9),
        Segment(3.5, 5, "a", 0.6),
    ]


@pytest.mark.parametrize("given", [(0,), (-1,), (1, 0), (np.inf,), (np.nan,), (1, np.inf)])
def test_lengths_of_time_are_positive_and_finite(given: tuple[float, ...]) -> None:
    with pytest.raises(TimelineError, match="more than 0"):
        SlidingWindow(*given)


@pytest.mark.parametrize(
    ("window", "duration", "spans"),
    [
        ((4,), 10, [(0, 4), (4, 8), (6, 10)]),
        ((4, 1), 5.5, [(0, 4), (1, 5), (1.5, 5.5)]),
        ((2,), 6, [(0, 2), (2, 4), (4, 6)]),
        ((1, 3), 5, [(0, 1), (3, 4), (4, 5)]),
        ((4,), 3, [(0, 3)]),
    ],
)
def test_the_last_window_ends_with_the_video(
    window: tuple[float, ...], duration: float, spans: list[tuple[float, float]]
) -> None:
    assert SlidingWindow(*window).spans(duration) == spans


def test_the_end_of_a_video_is_classified(classifier: VideoClassifier, rise_and_fall: Path) -> None:
    windows = list(classify_windows(classifier, rise_and_fall, SlidingWindow(2.5)))
    assert [(w.start, w.end) for w in windows] == [(0, 2.5), (2.5, 5), (3.5, pytest.approx(6))]
    # Halfway between the middles 3.75 and 4.75 the last window begins to speak.
    assert merge_windows(windows)[-1].end == pytest.approx(6)
    scores = {"a": (Score("a", 0.6),), "b": (Score("b", 0.9),)}
    tail = [WindowScores(s, s + 4, scores[label]) for s, label in ((0, "a"), (4, "a"), (6, "b"))]
    assert merge_windows(tail) == [Segment(0, 7, "a", 0.6), Segment(7, 10, "b", 0.9)]


@pytest.mark.parametrize("name", ["long.avi", "long.ts", "long.mpg", "long.mp4"])
def test_windows_decode_no_frame_twice_whatever_the_container(
    classifier: VideoClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    codec, rate = ("mpeg2video", 25) if name.endswith("mpg") else ("libx264", RATE)
    frames = clips.numbered_frames(40, 64, 64)
    path = clips.write_video(tmp_path / name, frames, codec=codec, rate=rate, options={"g": "5", "bf": "0"})
    decoded = []
    plain = reader.decode
    monkeypatch.setattr(reader, "decode", lambda *a: (decoded.append(0) or f for f in plain(*a)))
    windows = list(classify_windows(classifier, path, SlidingWindow(0.4, 0.2)))
    assert len(windows) > 5 and len(decoded) <= 40


def test_windows_see_the_frames_that_reading_by_number_gives(
    classifier: VideoClassifier, rise_and_fall: Path
) -> None:
    clip = open_clip(rise_and_fall)
    spans = SlidingWindow(1.5, 0.7).spans(6.0)
    for (start, end), found in zip(spans, window_clips(classifier, clip, spans, crops=2), strict=True):
        numbers = np.floor((np.arange(4) + 0.5) * 15 / 4) + round(start * RATE)  # 15 frames a window
        pictures = clip.read(numbers.astype(int))
        expected = [square_crops(picture, classifier.cropping, 16, 2) for picture in pictures]
        assert torch.equal(found, torch.stack(expected, 1)) and end - start == pytest.approx(1.5)


def test_a_stream_may_change_its_size(classifier: VideoClassifier) -> None:
    pictures = [np.full((48, 64, 3), 40, np.uint8)] * 2 + [np.full((96, 128, 3), 200, np.uint8)] * 2
    best, _ = score_pictures(classifier, pictures, top_k=2)
    assert best.label == "rising"


@pytest.fixture
def address(rise_and_fall: Path) -> Iterator[str]:
    """The video behind Python's http server on the loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
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
    assert [w.end for w in limited] == [1, 2, 2.5]  # the last one ends with the stream


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
    np.testing.assert_allclose(np.stack(buffer.at(np.array([5.5, 5.9]))), newest, atol=2)
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
