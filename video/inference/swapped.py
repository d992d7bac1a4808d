"""Another attention in a classifier that was trained without it: what becomes of its labels."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from fibo_robot.attention import swap_attention
from fibo_robot.video.classifier import ClipClassifier
from fibo_robot.video.inference.predict import best_of_clips
from fibo_robot.video.inference.views import read_views
from fibo_robot.video.reading.errors import VideoDecodeError


def swap_and_compare(
    classifier: ClipClassifier, attention: str, paths: Iterable[Path | str], views: int = 1, crops: int = 1
) -> str:
    """Swap a classifier's attention, and say what that does to its label of the first clip that can be read.

    Args:
        classifier: changed in place.
        attention: a registered attention's name.
        paths: clips.
        views, crops: as they will be classified.

    Returns:
        Sentences for the user.

    Raises:
        AttentionError: the model's attention cannot be swapped for this one.
    """
    cut = partial(classifier.squares, crops=crops)
    for path in paths:
        try:
            clips = read_views(path, classifier.sampling, cut, views)
            break
        except VideoDecodeError:  # it will be named when it is classified
            continue
    else:
        path, clips = None, None
    before = None if clips is None else best_of_clips(classifier, clips, 1)[0]
    layers = len(swap_attention(classifier, attention).layers)
    text = (
        f"{layers} attention layers are now {attention}. The weights were trained with another attention and "
        f"are not tuned to this one: what they say now is no measure of {attention}; train first."
    )
    if before is None or clips is None:
        return text
    after = best_of_clips(classifier, clips, 1)[0]
    return (
        f"{text} Of {path} they said {before.label!r} ({before.probability:.1%}) before, and say "
        f"{after.label!r} ({after.probability:.1%}) now."
    )
