"""`fibo bench video`: the input pipeline against bare decoders.

The pipeline is all that training does before the model: choose frames, decode, crop, resize, stack into a
batch in worker processes. Its rivals only decode, from the same files, the same frames, in as many processes,
and hand nothing over. Nothing is remembered about a file from one round to the next, as in an epoch over more
clips than memory holds.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fibo_robot.benchmarks.harness import BenchmarkError, interleave, speedup
from fibo_robot.progress import track
from fibo_robot.video.datasets.files import video_files
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.libraries import decord_refusal
from fibo_robot.video.reading.scan import forget_scans, scan
from fibo_robot.video.training.clips import ClipDataset
from fibo_robot.video.training.loader import ClipLoader
from fibo_robot.video.training.sampling import ClipSampling, Cropping

FRAMES = 16  # per clip
IMAGE_SIZE = 224
BATCH = 4
PIPELINE, DECORD, PYAV = "fibo_pipeline", "decord", "pyav"
_OWN_CLIPS, _OWN_LENGTH, _OWN_SIZE = 12, 150, (256, 340)  # five seconds of the size that Kinetics is kept in


@dataclass(frozen=True)
class PipelineRow:
    """One way to read clips.

    Attributes:
        case: `fibo_pipeline`, `decord` or `pyav`.
        clips: how many were read per round.
        frames: of each clip.
        workers: processes.
        clips_per_s: median over the rounds.
        speedup_vs_decord, speedup_vs_pyav: median of that decoder's time over own time within each round.
        speedup: the same over the faster of the two in each round; `spread`: its quartiles.
        rounds: how many were timed.
    """

    case: str
    clips: int
    frames: int
    workers: int
    clips_per_s: float
    speedup_vs_decord: float
    speedup_vs_pyav: float
    speedup: float
    spread: tuple[float, float]
    rounds: int

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def measure_pipeline(folder: Path | None = None, workers: int = 2, rounds: int = 5) -> list[PipelineRow]:
    """Time the input pipeline against decord and PyAV, interleaved.

    Args:
        folder: videos below it are read, those that decord reads exactly; clips written for the purpose when
            None.
        workers: processes, for each of the three.
        rounds: each reads every clip once by each of the three.

    Raises:
        BenchmarkError: there are no clips that decord reads exactly.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="fibo-bench-")))
            write_clips(folder)
        clips = _readable(folder)
        data = {
            DECORD: _Decoder(decord_frames, clips),
            PYAV: _Decoder(pyav_frames, clips),
            PIPELINE: _Pipeline(list(clips)),
        }
        loaders = {name: _loader(dataset, workers) for name, dataset in data.items()}
        seconds = interleave(
            {name: partial(_drain, loader, len(clips)) for name, loader in loaders.items()}, rounds
        )
    fastest = [min(pair) for pair in zip(seconds[DECORD], seconds[PYAV], strict=True)]
    rows = []
    for name, times in seconds.items():
        rivals = {rival: speedup(seconds[rival], times)[0] for rival in (DECORD, PYAV)}
        ratio, spread = speedup(fastest, times)
        rate = len(clips) / float(np.median(times))
        rows.append(
            PipelineRow(
                name, len(clips), FRAMES, workers, rate, rivals[DECORD], rivals[PYAV], ratio, spread, rounds
            )
        )
    return rows


def write_clips(
    folder: Path, count: int = _OWN_CLIPS, length: int = _OWN_LENGTH, size: tuple[int, int] = _OWN_SIZE
) -> None:
    """Write H.264 clips of a drifting, noisy texture, `size` (height, width) pixels, 30 frames a second."""
    height, width = size
    for number in track(range(count), "writing clips"):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (height // 16 + 2, (width + 2 * length) // 16 + 2, 3))
        texture = np.kron(coarse, np.ones((16, 16, 1))).astype(np.int16)
        with av.open(str(folder / f"{number:03d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for t in range(length):
                noise = generator.integers(-6, 7, (height, width, 1))
                picture = np.clip(texture[:height, 2 * t : 2 * t + width] + noise, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def _readable(folder: Path) -> dict[Path, np.ndarray]:
    """Clips that decord reads exactly, and the numbers of the frames that all shall read."""
    sampling = ClipSampling(frames=FRAMES)
    clips = {}
    for path in video_files(folder):
        try:
            content = scan(path)
        except VideoDecodeError:
            continue
        if decord_refusal(content) is not None:
            continue
        times = sorted(pts for pts in content.packet_pts if pts is not None)
        if len(times) == len(content.packet_pts) and len(set(np.diff(times))) <= 1:
            clips[path] = sampling.views(len(content.packet_pts))[0]
    if not clips:
        raise BenchmarkError(f"{folder} holds no videos of an even frame rate that decord reads exactly.")
    return clips


def decord_frames(path: Path, indices: np.ndarray) -> np.ndarray:
    """Frames `(T, H, W, 3)`, uint8, by decord alone."""
    import decord

    return decord.VideoReader(str(path), num_threads=1).get_batch(indices.tolist()).asnumpy()


def pyav_frames(path: Path, indices: np.ndarray) -> np.ndarray:
    """The same by PyAV alone: decoded from the beginning until all have come."""
    wanted = set(indices.tolist())
    pictures = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                pictures[number] = frame.to_ndarray(format="rgb24")
            if len(pictures) == len(wanted):
                break
    return np.stack([pictures[number] for number in indices.tolist()])


class _Decoder(Dataset[int]):
    """Decodes clips and says how many it has read: nothing else is handed over."""

    def __init__(
        self, decode: Callable[[Path, np.ndarray], np.ndarray], clips: dict[Path, np.ndarray]
    ) -> None:
        self.decode, self.clips = decode, list(clips.items())

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> int:
        path, indices = self.clips[item[0]]
        return int(len(self.decode(path, indices)) == FRAMES)


class _Pipeline(ClipDataset):
    """The data set of training, with its middle frames and crop, and no memory of files."""

    def __init__(self, clips: Sequence[Path]) -> None:
        labelled = [LabelledClip(path, ("",)) for path in clips]
        super().__init__(labelled, [""], ClipSampling(frames=FRAMES), Cropping(), IMAGE_SIZE, training=False)

    def _frames(self, index: int, generator: np.random.Generator) -> torch.Tensor:
        forget_scans()
        return super()._frames(index, generator)


def _loader(data: "_Decoder | _Pipeline", workers: int) -> DataLoader:
    pairs = [(index, 0) for index in range(len(data))]
    batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
    if isinstance(data, _Pipeline):
        return ClipLoader(data, batches, batch_size=BATCH, num_workers=workers)
    return DataLoader(
        data, batch_sampler=batches, collate_fn=sum, num_workers=workers, persistent_workers=workers > 0
    )


def _drain(loader: Iterable, expected: int) -> None:
    read = sum(batch if isinstance(batch, int) else len(batch["clips"]) for batch in loader)
    if read != expected:
        raise BenchmarkError(f"{read} of {expected} clips were read; check them with `fibo data check`.")
