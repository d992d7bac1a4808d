"""Augmentation of whole batches of clips or images on the device they are trained on.

Every frame of a clip gets the same change, and every clip or image its own. Randomness comes from torch's
global generator, which training seeds anew for each batch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from fibo_robot.errors import FiboError


class AugmentationError(FiboError, ValueError):
    """Augmentation was described in numbers that cannot be; the message names them."""


class MixedBatch(NamedTuple):
    """Clips or images `(B, [T,] 3, H, W)`, float in [0, 1], and targets `(B, classes)` in [0, 1].

    With one label each, a row of targets sums to 1.
    """

    clips: Tensor
    targets: Tensor


class BatchAugmentation(nn.Module):
    """uint8 clips or images and labels in, float ones and soft targets out.

    Args:
        horizontal_flip: probability of mirroring a clip. 0 where left and right tell classes apart.
        rand_augment_ops: changes of RandAugment (arXiv 1909.13719) per clip; 0 is off.
        rand_augment_magnitude: their strength, 0 to 30.
        brightness, contrast, saturation: largest relative change of colour jitter; 0 is off.
        random_erasing: probability that a rectangle of a clip is filled with noise (arXiv 1708.04896).
        mixup_alpha, cutmix_alpha: of the Beta distribution; 0 is off. With both on, each batch gets one of
            them with equal chance. Targets are mixed as the pictures are, those of several labels, too: half
            of a clip with a label makes this label's target 0.5.
        label_smoothing: share of a target that is spread over all classes; with several labels, each of which
            is there or not, over these two.

    Raises:
        AugmentationError: a number lies outside of what it can be.
    """

    def __init__(
        self,
        horizontal_flip: float = 0.0,
        rand_augment_ops: int = 0,
        rand_augment_magnitude: int = 9,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        random_erasing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        shares = {
            "horizontal_flip": horizontal_flip,
            "random_erasing": random_erasing,
            "label_smoothing": label_smoothing,
        }
        wrong = [f"{name} {value:g}" for name, value in shares.items() if not 0 <= value <= 1]
        if wrong:
            raise AugmentationError(f"{', '.join(wrong)}: it must lie in 0..1.")
        least = {
            "rand_augment_ops": rand_augment_ops,
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "mixup_alpha": mixup_alpha,
            "cutmix_alpha": cutmix_alpha,
        }
        wrong = [f"{name} {value:g}" for name, value in least.items() if not value >= 0]
        if wrong:
            raise AugmentationError(f"{', '.join(wrong)}: it must be 0, which is off, or more.")
        per_clip: list[nn.Module] = []
        if horizontal_flip:
            per_clip.append(v2.RandomHorizontalFlip(horizontal_flip))
        if rand_augment_ops:
            per_clip.append(v2.RandAugment(rand_augment_ops, rand_augment_magnitude))
        if brightness or contrast or saturation:
            per_clip.append(v2.ColorJitter(brightness, contrast, saturation))
        self.per_clip = v2.Compose(per_clip) if per_clip else None
        # Sizes and shapes of timm's RandomErasing, with which published recipes are trained.
        self.erase = v2.RandomErasing(
            random_erasing,
            (0.02, 1 / 3),
            (0.3, 1 / 0.3),
            value="random",  # pyright: ignore[reportArgumentType]  # torchvision types it too narrowly
        )
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.label_smoothing = label_smoothing

    def forward(self, clips: Tensor, labels: Tensor, num_classes: int) -> MixedBatch:
        """Change uint8 clips `(B, T, 3, H, W)`, or images `(B, 3, H, W)`, with labels `(B,)`.

        Labels of several classes each are float `(B, classes)`, zeros and ones.
        """
        if self.per_clip is not None:
            clips = torch.stack([self.per_clip(clip) for clip in clips])
        clips = clips.float() / 255
        if self.erase.p:
            # The noise is normal in the units that models see: standard deviations around the mean colour.
            mean, std = (
                clips.new_tensor(c).view(3, 1, 1) for c in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
            )
            clips = torch.stack([self.erase(clip) for clip in (clips - mean) / std]) * std + mean
        targets: Tensor = labels
        mixes = [
            mix for mix, alpha in ((v2.MixUp, self.mixup_alpha), (v2.CutMix, self.cutmix_alpha)) if alpha
        ]
        if mixes:
            mix = mixes[int(torch.randint(len(mixes), ()))]
            alpha = self.mixup_alpha if mix is v2.MixUp else self.cutmix_alpha
            kind = tv_tensors.Video if clips.ndim == 5 else tv_tensors.Image
            mixed, targets = mix(alpha=alpha, num_classes=num_classes)(kind(clips), labels)
            clips = mixed.as_subclass(Tensor)
        elif not labels.is_floating_point():
            targets = F.one_hot(labels, num_classes).to(clips.dtype)
        outcomes = 2 if labels.is_floating_point() else num_classes
        return MixedBatch(clips, targets * (1 - self.label_smoothing) + self.label_smoothing / outcomes)
