"""Options that `fibo classify` and `fibo video-test` share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fibo_robot.video.classifier import ClipClassifier


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"

    def name_for_torch(self) -> str:
        """`cpu` or `cuda`; `auto` is the GPU where there is one."""
        import torch

        if self is Device.AUTO:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.value


CheckpointArgument = Annotated[
    Path,
    typer.Argument(help="Run directory, folder that transformers saved, or hf:owner/name of either."),
]
SamplingOption = Annotated[
    str | None,
    typer.Option("--sampling", metavar="uniform|dense:RATE", help="Frames of a clip [as it was trained]."),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where the model runs.")]

# 1 is an error that stops the work and 2 a mistyped command; so a file that fails is 3.
SOME_FILES_FAILED = 3


def load(checkpoint: Path, device: Device, sampling: str | None) -> "ClipClassifier":
    """The classifier that a command was given; says which frames are taken where no checkpoint says it."""
    from fibo_robot.video.inference.predict import load_classifier
    from fibo_robot.video.published import PublishedClassifier

    classifier = load_classifier(checkpoint, device.name_for_torch())
    if sampling is not None:
        classifier.sampling = classifier.sampling.chosen(sampling)
    elif isinstance(classifier, PublishedClassifier):
        typer.echo(
            f"fibo: frames of a clip: {classifier.sampling}, as its paper says; the checkpoint does not. "
            "--sampling changes it.",
            err=True,
        )
    return classifier
