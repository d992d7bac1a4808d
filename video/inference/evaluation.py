"""Testing a classifier as papers do: several views and crops of each video, with intervals on the result."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fibo_robot.errors import FiboError
from fibo_robot.progress import track
from fibo_robot.training.checkpoint import state_digest
from fibo_robot.video.classifier import ClipClassifier
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.inference.predict import view_scores
from fibo_robot.video.inference.results import MultiLabelTest, TestedVideos, VideoTest
from fibo_robot.video.inference.views import read_views
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.training.clips import multi_hot


class _Videos(Dataset[Tensor | FiboError]):
    """The clips by which each video is tested, uint8 `(views * crops, T, 3, S, S)`, or why there are none."""

    def __init__(
        self, classifier: ClipClassifier, clips: Sequence[LabelledClip], views: int, crops: int
    ) -> None:
        self._sampling, self._cut = classifier.sampling, partial(classifier.squares, crops=crops)
        self._clips, self._views = clips, views

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> Tensor | FiboError:
        clip = self._clips[number]
        try:
            return read_views(clip.path, self._sampling, self._cut, self._views, clip.span)
        except FiboError as error:  # raised here, it would reach the main process as a traceback
            return error


def evaluate_videos(
    classifier: ClipClassifier,
    clips: Sequence[LabelledClip],
    *,
    views: int = 1,
    crops: int = 1,
    batch_size: int = 8,
    workers: int = 0,
) -> TestedVideos:
    """Classify labelled videos, `views` clips of each and `crops` squares of each clip.

    The result is a :class:`VideoTest`, or of a multi-label classifier a :class:`MultiLabelTest`.

    Args:
        classifier: from `load_classifier`.
        clips: the videos.
        views: clips spread over each video.
        crops: squares spread along the longer side.
        batch_size: squares of clips that the model sees at a time, of one video or several.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        VideoDecodeError: not one of the videos could be read.
        FiboError: the model's scores are no numbers.
    """
    numbers = {label: number for number, label in enumerate(classifier.labels)}
    loader = DataLoader(_Videos(classifier, clips, views, crops), batch_size=None, num_workers=workers)
    paths: list[Path] = []
    failures: dict[str, str] = {}
    targets: list[int | np.ndarray] = []
    waiting: list[Tensor] = []
    scores: list[Tensor] = []
    for clip, found in zip(clips, track(loader, "testing", total=len(clips))):
        if isinstance(found, VideoDecodeError):
            failures[str(clip.name)] = str(found)
            continue
        if isinstance(found, FiboError):
            raise found
        paths.append(clip.name)
        classes = [numbers[label] for label in clip.labels]
        targets.append(
            multi_hot(classes, len(numbers)).bool().numpy() if classifier.multi_label else numbers[clip.label]
        )
        waiting += found
        while len(waiting) >= batch_size:
            scores.append(view_scores(classifier, torch.stack(waiting[:batch_size])))
            del waiting[:batch_size]
    if waiting:
        scores.append(view_scores(classifier, torch.stack(waiting)))
    if not targets:
        raise VideoDecodeError(f"None of {len(clips)} videos could be read; {next(iter(failures.values()))}")
    kind = MultiLabelTest if classifier.multi_label else VideoTest
    return kind(
        labels=classifier.labels,
        paths=paths,
        targets=np.array(targets),
        scores=torch.cat(scores).reshape(len(targets), views * crops, -1).numpy(),
        failures=failures,
        views=views,
        crops=crops,
        weights=state_digest(classifier.state_dict()),
    )
