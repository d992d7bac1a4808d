"""From a checkpoint and a file to labels with probabilities."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fibo_robot.training.rebuild import load_model
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.reading.reader import VideoDecodeError
from fibo_robot.video.training.clips import crop_and_resize, open_clip
from fibo_robot.video.training.sampling import ClipSampling, Cropping, at_even_times


@dataclass(frozen=True)
class Score:
    """One class and its probability in 0..1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one file.

    Attributes:
        path: the file as it was given.
        scores: the most probable classes first; empty where the file could not be read.
        error: why it could not be read; None where it could.
    """

    path: str
    scores: tuple[Score, ...]
    error: str | None = None


def load_classifier(checkpoint_dir: str | Path, device: str | torch.device = "cpu") -> VideoClassifier:
    """The classifier in `checkpoint_dir`, in evaluation mode on `device`.

    Its `.labels` are the names of its classes, `.sampling` and `.cropping` how clips were cut for it, and
    `.meta` is the meta.json.

    Raises:
        CheckpointError: the directory is not a complete classifier checkpoint, or its weights do not fit.
    """
    classifier, checkpoint = load_model(
        checkpoint_dir,
        "classifier",
        "classifier.classifier",
        VideoClassifier,
        {"labels": lambda meta: meta["labels"]},
    )
    classifier.meta = checkpoint.meta
    classifier.sampling = ClipSampling(**checkpoint.meta["sampling"])
    classifier.cropping = Cropping(**checkpoint.meta["cropping"])
    return classifier.to(device)


def read_views(
    path: Path | str,
    sampling: ClipSampling,
    cropping: Cropping,
    image_size: int,
    views: int = 1,
    crops: int = 1,
) -> Tensor:
    """Clips for testing: uint8 `(views * crops, T, 3, S, S)`, all crops of the first view first.

    Args:
        path: a video file; it is checked as a whole.
        sampling, cropping: which frames and which parts.
        image_size: S.
        views: clips spread over the video.
        crops: squares spread along the longer side.

    Raises:
        VideoDecodeError: the file cannot be read.
    """
    reader = open_clip(Path(path))
    clips = []
    for numbers in sampling.views(len(reader), views):
        if reader.variable_rate:
            numbers = at_even_times(numbers, reader.timestamps)
        frames = torch.from_numpy(reader.read(numbers)).permute(0, 3, 1, 2)
        boxes = cropping.test(*frames.shape[-2:], crops)
        clips += [crop_and_resize(frames, box, image_size) for box in boxes]
    return torch.stack(clips)


@torch.inference_mode()
def view_scores(classifier: VideoClassifier, clips: Tensor) -> Tensor:
    """Scores `(V, classes)` before the softmax, on the CPU, of clips `(V, T, 3, S, S)`."""
    device = next(classifier.parameters()).device
    return classifier(clips.to(device)).float().cpu()


def best_scores(classifier: VideoClassifier, scores: Tensor, top_k: int) -> tuple[Score, ...]:
    """The most probable classes first, of scores `(V, classes)` before the softmax, averaged over V views."""
    best = scores.softmax(-1).mean(0).topk(min(top_k, len(classifier.labels)))
    return tuple(Score(classifier.labels[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist()))


def predict(
    classifier: VideoClassifier,
    paths: Sequence[Path | str],
    *,
    top_k: int = 5,
    views: int = 1,
    crops: int = 1,
) -> Iterator[Prediction]:
    """Classify files one by one; what cannot be read gives a prediction with an error, not an exception.

    The probability of a class is its mean over all views and crops.

    Args:
        classifier: from :func:`load_classifier`.
        paths: video files.
        top_k: how many classes to name.
        views, crops: see :func:`read_views`.

    Yields:
        One prediction per path, in their order.
    """
    size = classifier.encoder.image_size[0]

    def read(path: Path | str) -> Tensor | VideoDecodeError:
        try:
            return read_views(path, classifier.sampling, classifier.cropping, size, views, crops)
        except VideoDecodeError as error:
            return error

    # One thread reads the next file while the model looks at this one.
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(read, path) for path in paths[:2]]
        for number, path in enumerate(paths):
            clips = ahead.pop(0).result()
            if number + 2 < len(paths):
                ahead.append(reader.submit(read, paths[number + 2]))
            if isinstance(clips, VideoDecodeError):
                yield Prediction(str(path), (), str(clips))
                continue
            scores = best_scores(classifier, view_scores(classifier, clips), top_k)
            yield Prediction(str(path), scores)
