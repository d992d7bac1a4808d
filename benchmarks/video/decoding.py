"""`fibo bench decoding`: libraries that decode, side by side, each opening every file anew.

Five habits of access: frames drawn at random, frames spread over the clip, a clip for training (frames that
lie 4 apart, from somewhere on), the whole file, its first frame.
The baseline is PyAV as people write it: decode from the beginning until the last wanted frame has come. Each
library stands there bare (`decord`, `torchcodec`), and the reader of this package as training uses it
(`fibo`) and with another backend (`fibo_decord` …). What a library gives is compared with the baseline before
it is timed: a fast library with other frames is no rival.

:func:`measure_reencoding` times the reader of this package on the originals and on their copies by
`fibo data reencode`, with the same habits.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fibo_robot.benchmarks.harness import BenchmarkError, interleave, speedup
from fibo_robot.benchmarks.video.pipeline import decord_frames, pyav_frames, write_clips
from fibo_robot.video.datasets.files import video_files
from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.reading.libraries import Backend, decord_refusal, torchcodec_refusal
from fibo_robot.video.reading.scan import forget_scans, scan
from fibo_robot.video.training.sampling import ClipSampling

FRAMES = 16  # of the patterns random, uniform and clip
BASELINE = "pyav"
ORIGINALS, REENCODED = "fibo", "fibo_reencoded"
_CLOSE = 1  # grey level: colours are rounded in other ways

Decode = Callable[[Path, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class DecodingRow:
    """One way to read frames, with one habit of access.

    Attributes:
        case: `random`, `uniform`, `clip`, `whole` or `first`.
        library: `pyav`, `decord`, `torchcodec`, `fibo` or `fibo_decord` …; `fibo_reencoded` reads the copies.
        clips: how many were read per round.
        frames: read in a round, of all clips.
        clips_per_s: median over the rounds.
        speedup: median of the baseline's time over own time within each round; `spread`: its quartiles.
        clips_that_differ: those of which some frame is not the baseline's; None for copies, which differ.
        rounds: how many were timed.
    """

    case: str
    library: str
    clips: int
    frames: int
    clips_per_s: float
    speedup: float
    spread: tuple[float, float]
    clips_that_differ: int | None
    rounds: int

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def measure_decoding(folder: Path | None = None, rounds: int = 5) -> list[DecodingRow]:
    """Time all libraries with all habits of access, interleaved, one file and one thread at a time.

    torchcodec takes part where it is installed.

    Args:
        folder: videos below it are read, those that decord and torchcodec read exactly; clips written for the
            purpose when None.
        rounds: each reads every clip once by each library.

    Raises:
        BenchmarkError: there are no such clips.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="fibo-bench-")))
            write_clips(folder)
        lengths = _lengths(folder)
        return [row for case in _PATTERNS for row in _measure(case, lengths, rounds)]


def _measure(case: str, lengths: dict[Path, int], rounds: int) -> list[DecodingRow]:
    wanted = {path: _PATTERNS[case](length) for path, length in lengths.items()}
    libraries = _libraries()
    differing = {name: 0 for name in libraries}
    for path, numbers in wanted.items():
        truth = pyav_frames(path, numbers).astype(np.int16)
        for name, decode in libraries.items():
            differing[name] += bool(np.abs(decode(path, numbers) - truth).max() > _CLOSE)
    seconds = interleave(
        {name: partial(_read_all, decode, wanted) for name, decode in libraries.items()}, rounds
    )
    return _rows(case, wanted, seconds, BASELINE, differing)


def _rows(
    case: str,
    wanted: Mapping[Path, np.ndarray],
    seconds: Mapping[str, list[float]],
    baseline: str,
    differing: Mapping[str, int],
) -> list[DecodingRow]:
    frames = sum(len(numbers) for numbers in wanted.values())
    rows = []
    for name, times in seconds.items():
        ratio, spread = speedup(seconds[baseline], times)
        rate = len(wanted) / float(np.median(times))
        rows.append(
            DecodingRow(case, name, len(wanted), frames, rate, ratio, spread, differing.get(name), len(times))
        )
    return rows


def measure_reencoding(originals: Path, copies: Path, rounds: int = 5) -> list[DecodingRow]:
    """Time our reader on a folder of clips, the baseline, and on its re-encoded copy, interleaved.

    Args:
        originals: the folder that was given to `fibo data reencode`.
        copies: the one that it wrote.
        rounds: each reads every clip once from each folder.

    Raises:
        BenchmarkError: no video of `copies` has an original of that name and length.
    """
    lengths: dict[Path, int] = {}
    for copy in video_files(copies):
        name = copy.relative_to(copies)
        try:
            length = len(VideoReader(copy, verify=False))
            if len(VideoReader(originals / name, verify=False)) == length:
                lengths[name] = length
        except VideoDecodeError:
            continue
    if not lengths:
        raise BenchmarkError(
            f"{copies} holds no copy of a video in {originals}; write it: fibo data reencode."
        )
    read = partial(_fibo_frames, backend="av")
    rows = []
    for case, pattern in _PATTERNS.items():
        wanted = {name: pattern(length) for name, length in lengths.items()}
        folders = {ORIGINALS: originals, REENCODED: copies}
        tasks = {
            library: partial(_read_all, read, {folder / name: numbers for name, numbers in wanted.items()})
            for library, folder in folders.items()
        }
        rows += _rows(case, wanted, interleave(tasks, rounds), ORIGINALS, {})
    return rows


def _libraries() -> dict[str, Decode]:
    has_torchcodec = find_spec("torchcodec") is not None
    backends: list[Backend] = ["decord", *(["torchcodec"] if has_torchcodec else [])]
    return {
        BASELINE: pyav_frames,
        "decord": decord_frames,
        **({"torchcodec": _torchcodec_frames} if has_torchcodec else {}),
        "fibo": partial(_fibo_frames, backend="av"),
        **{f"fibo_{name}": partial(_fibo_frames, backend=name) for name in backends},
    }


def _torchcodec_frames(path: Path, numbers: np.ndarray) -> np.ndarray:
    decoders = import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu")
    return decoder.get_frames_at(numbers.tolist()).data.numpy()


def _fibo_frames(path: Path, numbers: np.ndarray, backend: Backend) -> np.ndarray:
    forget_scans()
    return VideoReader(path, verify=False, backend=backend).read(numbers)


def _read_all(decode: Decode, wanted: dict[Path, np.ndarray]) -> None:
    for path, numbers in wanted.items():
        decode(path, numbers)


def _at_random(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, length, FRAMES)


_PATTERNS: dict[str, Callable[[int], np.ndarray]] = {
    "random": _at_random,
    "uniform": lambda length: ClipSampling(frames=FRAMES).views(length)[0],
    "clip": lambda length: ClipSampling("dense", FRAMES, rate=4).random(length, np.random.default_rng(0)),
    "whole": np.arange,
    "first": lambda length: np.zeros(1, dtype=np.int64),
}


def _lengths(folder: Path) -> dict[Path, int]:
    """Clips that decord and torchcodec read exactly, and their numbers of frames."""
    lengths = {}
    for path in video_files(folder):
        try:
            content = scan(path)
        except VideoDecodeError:
            continue
        if decord_refusal(content) is None and torchcodec_refusal(content) is None:
            lengths[path] = len(content.packet_pts)
    if not lengths:
        raise BenchmarkError(f"{folder} holds no videos that decord and torchcodec read exactly.")
    return lengths
