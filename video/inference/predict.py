"""From a checkpoint and a file to labels with probabilities."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from fibo_robot.errors import FiboError
from fibo_robot.hub.source import local_folder
from fibo_robot.training.rebuild import load_model

# Kinds of classifiers and encoders register themselves, for checkpoints to name.
from fibo_robot.video import attentive_probe, published_encoder  # noqa: F401
from fibo_robot.video.classifier import ClipClassifier, VideoClassifier
from fibo_robot.video.inference.views import read_views
from fibo_robot.video.published import is_published, load_published
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.training.sampling import ClipSampling, Cropping


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
        scores: the most probable classes first; empty where the file could not be read, or none reaches the
            threshold.
        error: why it could not be read; None where it could.
    """

    path: str
    scores: tuple[Score, ...]
    error: str | None = None


def load_classifier(source: str | Path, device: str | torch.device = "cpu") -> ClipClassifier:
    """The classifier at `source`, in evaluation mode on `device`.

    Its `.labels` are the names of its classes, `.sampling` how clips are chosen for it, and `.meta` what is
    known of its origin. A run directory gives a :class:`VideoClassifier`, a checkpoint of transformers a
    :class:`fibo_robot.video.published.PublishedClassifier`.

    Args:
        source: a run directory, or a folder that transformers saved; or `hf:owner/name` of either on the Hub.
        device: where it runs.

    Raises:
        CheckpointError: a run directory is incomplete, holds no classifier, or its weights do not fit.
        PublishedError: a checkpoint of transformers is incomplete, or no video classifier that is known here.
        HubError: the Hub does not give it.
    """
    folder = local_folder(source)
    if is_published(folder):
        return load_published(folder).to(device)
    classifier, checkpoint = load_model(
        source,
        "classifier",
        "classifier.classifier",
        VideoClassifier,
        {"labels": lambda meta: meta["labels"]},
    )
    classifier.meta = checkpoint.meta
    classifier.sampling = ClipSampling(**checkpoint.meta["sampling"])
    classifier.cropping = Cropping(**checkpoint.meta["cropping"])
    classifier.multi_label = checkpoint.meta.get("multi_label", False)  # earlier checkpoints have one label
    return classifier.to(device)


@torch.inference_mode()
def view_scores(classifier: ClipClassifier, clips: Tensor) -> Tensor:
    """Scores `(V, classes)` before the softmax, on the CPU, of clips `(V, T, 3, S, S)`.

    Raises:
        FiboError: they are no finite numbers.
    """
    device = next(classifier.parameters()).device
    return finite(classifier(clips.to(device)).float().cpu())


def finite(scores: Tensor) -> Tensor:
    """The scores as they are; raises FiboError where one is no finite number."""
    if not scores.isfinite().all():
        raise FiboError(
            "The classifier's scores are no finite numbers, so it ranks nothing: its training diverged; "
            "train again with a smaller optimizer.lr."
        )
    return scores


def best_scores(
    labels: Sequence[str], probabilities: Tensor, top_k: int, threshold: float = 0.0
) -> tuple[Score, ...]:
    """The most probable classes first.

    Args:
        labels: names of the classes.
        probabilities: `(V, classes)` of V views, which are averaged.
        top_k: how many at most.
        threshold: the least probability that is named.
    """
    best = probabilities.mean(0).topk(min(top_k, len(labels)))
    classes: list[int] = best.indices.tolist()
    return tuple(Score(labels[i], p) for p, i in zip(best.values.tolist(), classes) if p >= threshold)


def best_of_clips(
    classifier: ClipClassifier, clips: Tensor, top_k: int, threshold: float = 0.0
) -> tuple[Score, ...]:
    """The most probable classes of one video first, of its views `(V, T, 3, S, S)`; see `best_scores`."""
    probabilities = classifier.probabilities(view_scores(classifier, clips))
    return best_scores(classifier.labels, probabilities, top_k, threshold)


def predict(
    classifier: ClipClassifier,
    paths: Path | str | Iterable[Path | str],
    *,
    top_k: int = 5,
    views: int = 1,
    crops: int = 1,
    threshold: float = 0.0,
) -> Iterator[Prediction]:
    """Classify files one by one; what cannot be read gives a prediction with an error, not an exception.

    The probability of a class is its mean over all views and crops.

    Args:
        classifier: from :func:`load_classifier`.
        paths: one clip, or any number of them.
        top_k: how many classes to name.
        views: clips spread over each video.
        crops: squares spread along the longer side of each picture.
        threshold: the least probability that is named.

    Yields:
        One prediction per path, in their order.
    """

    def read(path: Path | str) -> Tensor | VideoDecodeError:
        try:
            return read_views(path, classifier.sampling, partial(classifier.squares, crops=crops), views)
        except VideoDecodeError as error:
            return error

    waiting = iter([paths] if isinstance(paths, Path | str) else paths)
    # One thread reads the next file while the model looks at this one.
    with ThreadPoolExecutor(1) as reader:
        ahead = deque((path, reader.submit(read, path)) for path in islice(waiting, 2))
        while ahead:
            path, clips = ahead[0][0], ahead[0][1].result()
            ahead.popleft()
            ahead.extend((path, reader.submit(read, path)) for path in islice(waiting, 1))
            if isinstance(clips, VideoDecodeError):
                yield Prediction(str(path), (), str(clips))
                continue
            yield Prediction(str(path), best_of_clips(classifier, clips, top_k, threshold))
