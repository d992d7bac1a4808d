"""Video classifiers as transformers publishes them: VideoMAE, TimeSformer, ViViT and V-JEPA 2.

Weights, preprocessing and class names are the checkpoint's own, read by transformers; decoding, views and
crops are ours. A checkpoint does not say which frames of a video make its clips: `SAMPLING` has what the
papers say.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fibo_robot.errors import FiboError
from fibo_robot.extras import require
from fibo_robot.video.classifier import ClipClassifier
from fibo_robot.video.training.sampling import ClipSampling, square_side

if TYPE_CHECKING:
    from transformers import BaseVideoProcessor, PreTrainedModel

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# By transformers' model type: kind and rate of a clip's frames, as the papers tested on Kinetics (VideoMAE
# arXiv 2203.12602, TimeSformer 2102.05095, ViViT 2103.15691). V-JEPA 2's published heads are for short clips,
# which are seen whole.
SAMPLING: dict[str, ClipSampling] = {
    "videomae": ClipSampling("dense", 16, 4),
    "timesformer": ClipSampling("dense", 8, 32),
    "vivit": ClipSampling("dense", 32, 2),
    "vjepa2": ClipSampling("uniform", 64),
}


class PublishedError(FiboError):
    """A checkpoint of transformers is incomplete, or none of the video classifiers that are known here."""


class PublishedClassifier(ClipClassifier):
    """A video classifier of transformers behind the interface of ours.

    Args:
        model: transformers' model for video classification.
        processor: its preprocessing.

    Attributes:
        model: as given; its attention may be swapped.

    Raises:
        PublishedError: the preprocessing makes no squares of one size.
    """

    def __init__(self, model: "PreTrainedModel", processor: "BaseVideoProcessor") -> None:
        super().__init__()
        self.model, self._processor = model, processor
        config: Any = model.config
        self.labels = [config.id2label[number] for number in range(config.num_labels)]
        self.multi_label = config.problem_type == "multi_label_classification"
        default = SAMPLING[config.model_type]
        frames = getattr(config, "num_frames", None) or config.frames_per_clip
        self.sampling = ClipSampling(default.kind, frames, default.rate)
        self.image_size = self._size_after_preprocessing()
        self.meta = {"kind": "classifier", "labels": self.labels, "architecture": type(model).__name__}

    def _size_after_preprocessing(self) -> int:
        processor: Any = self._processor
        size = processor.crop_size if processor.do_center_crop else processor.size
        if not size or not size.get("height") or not size.get("width"):
            raise PublishedError(
                "The checkpoint's preprocessing neither cuts nor scales pictures to one size, so clips of "
                "several views cannot be made for it: use transformers' own pipeline."
            )
        return square_side([size["height"], size["width"]])

    def squares(self, picture: np.ndarray, crops: int = 1) -> Tensor:
        """Scaled as published, then cut; the middle crop is the published one."""
        frame = torch.from_numpy(picture).permute(2, 0, 1)
        scaled = self._process([frame[None]], do_rescale=False, do_normalize=False)[0, 0]
        height, width = scaled.shape[-2:]
        size = self.image_size
        if min(height, width) < size:
            raise PublishedError(
                f"The checkpoint's preprocessing scales a picture to {height} x {width} pixels and cuts "
                f"{size} x {size} of it, with a black border: use transformers' own pipeline for such clips."
            )
        down, along = height - size, width - size  # what the cut leaves over
        places = [0.5] if crops == 1 else [number / (crops - 1) for number in range(crops)]
        # Half a pixel is rounded down, as transformers does, and not to the even number.
        corners = [
            (int(place * down), along // 2) if height > width else (down // 2, int(place * along))
            for place in places
        ]
        return torch.stack([scaled[:, top : top + size, left : left + size] for top, left in corners])

    def forward(self, clips: Tensor) -> Tensor:
        """Scores `(B, classes)` before the softmax, of uint8 clips `(B, T, 3, S, S)`."""
        pixels = self._process(list(clips), do_resize=False)
        return self.model(**{self.model.main_input_name: pixels}).logits

    def _process(self, clips: list[Tensor], **steps: bool) -> Tensor:
        """The published preprocessing of clips `(T, 3, H, W)`, without its cut and the `steps` set off."""
        processor: Any = self._processor
        done = processor(clips, do_center_crop=False, do_sample_frames=False, return_tensors="pt", **steps)
        return done[self.model.main_input_name]


def is_published(folder: Path) -> bool:
    """Whether a folder is in transformers' layout and not a run directory."""
    return (folder / CONFIG).is_file() and not (folder / "config.yaml").exists()


def load_published(folder: Path) -> PublishedClassifier:
    """The video classifier that transformers saved in a folder, in evaluation mode.

    No code of the checkpoint is run, and no pickle is read.

    Raises:
        PublishedError: it is none of :data:`SAMPLING`'s, has no head or no safetensors, or is damaged.
        MissingExtraError: transformers is not installed.
    """
    architecture = _architecture(folder)
    transformers = require("transformers", extra="transformers", purpose="A checkpoint of transformers")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise PublishedError(
            f"{folder} has no model.safetensors. Weights in pickles are not read: the Hub often has a "
            "converted revision (hf:owner/name@refs/pr/N); or save them again with transformers."
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet(transformers.utils.logging):
            model, report = transformers.AutoModelForVideoClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **options
            )
        processor = transformers.AutoVideoProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()[:40])
        raise PublishedError(
            f"transformers {transformers.__version__} cannot load {folder} ({architecture}): {reason}"
        ) from error
    if report["missing_keys"]:
        raise PublishedError(
            f"{folder} lacks {len(report['missing_keys'])} of the weights of a {architecture}, as "
            f"{min(report['missing_keys'])}: fetch it again."
        )
    return PublishedClassifier(model, processor).eval()


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without transformers' progress bar, which takes longer to draw than small files to read."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _architecture(folder: Path) -> str:
    """The class that a folder's config names; raises PublishedError unless it is a classifier we know."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishedError(f"{folder / CONFIG} is damaged ({error}). Fetch it again.") from error
    config = config if isinstance(config, dict) else {}
    names = [str(name) for name in config.get("architectures") or ()]
    classifies = any(name.endswith("ForVideoClassification") for name in names)
    if config.get("model_type") not in SAMPLING or not classifies:
        raise PublishedError(
            f"{folder} holds {', '.join(names) or 'no model of transformers'}. Give a run directory, or "
            f"a checkpoint for video classification of one of {', '.join(SAMPLING)}."
        )
    return names[0]
