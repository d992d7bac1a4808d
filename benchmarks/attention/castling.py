"""`fibo bench castling`: what switching the training branch off costs, up to the schedule's end and after.

A small ViT with Castling learns to tell orientations of gratings in noise, under the schedule that `fibo
train` uses. At every quarter of the schedule a copy of it is castled: how far does the output move, and how
many test images change sides? After the schedule's end both must be exactly 0.
"""

import copy
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention import castle
from fibo_robot.attention.swap import angular_cores
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.encoders import create_encoder
from fibo_robot.progress import track
from fibo_robot.training.callbacks.castling import branch_scale_at

QUARTERS = 5  # four of the schedule, and one of training without the branch
END = 4 / QUARTERS
CLASSES = 4
PIXELS, PATCH = 24, 6
AMPLITUDE, NOISE = 0.1, 0.35  # hard enough that accuracy is not soon 100 %
BATCH = 32
TEST_IMAGES, GAP_IMAGES = 512, 64
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class CastlingRow:
    """What castling a copy of the model did at one point of training.

    Attributes:
        case: the point, in words.
        schedule: share of the schedule done; above 1 after its end.
        step: optimiser steps taken.
        branch_scale: what the branch is multiplied by.
        mass_passed: share of softmax mass that the branch's mask passes, whatever its scale, mean over
            layers; None once the branch is off.
        output_gap: largest absolute difference that castling made to a logit of the first 64 test images.
        relative_gap: norm of that difference over the norm of the castled logits.
        accuracy_before, accuracy_after: on 512 test images, with the branch and castled.
    """

    case: str
    schedule: float
    step: int
    branch_scale: float
    mass_passed: float | None
    output_gap: float
    relative_gap: float
    accuracy_before: float
    accuracy_after: float

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def measure(steps_per_quarter: int = 40, seed: int = 0) -> list[CastlingRow]:
    """Train under the schedule and castle a copy at 0, 25, 50, 75, 100 and 125 % of it.

    Args:
        steps_per_quarter: optimiser steps per quarter of the schedule.
        seed: of the weights and the images.

    Raises:
        BenchmarkError: if there is nothing to train.
    """
    if steps_per_quarter < 1:
        raise BenchmarkError(f"steps per quarter must be at least 1, not {steps_per_quarter}.")
    steps = QUARTERS * steps_per_quarter
    test_images, test_labels = gratings(TEST_IMAGES, torch.Generator().manual_seed(seed + 1))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GratingClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rows = []
    for step in track(range(steps + 1), "training"):
        for _, core in angular_cores(model):
            core.set_branch_scale(branch_scale_at(step / steps, END))
        if step % steps_per_quarter == 0:
            rows.append(_castle_a_copy(model, step, step / steps / END, test_images, test_labels))
        if step < steps:
            images, labels = gratings(BATCH, generator)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return rows


def gratings(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gratings of one of four orientations, at any phase, in noise.

    Returns:
        Images `(count, 3, 24, 24)` in [0, 1], and labels `(count,)`.
    """
    labels = torch.randint(CLASSES, (count,), generator=generator)
    angle = labels[:, None, None] * math.pi / CLASSES
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(PIXELS), torch.arange(PIXELS), indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    waves = AMPLITUDE * torch.sin(2 * math.pi * along / PATCH + phase)
    noise = NOISE * torch.randn(count, 3, PIXELS, PIXELS, generator=generator)
    return (0.5 + waves[:, None] + noise).clamp(0, 1), labels


class GratingClassifier(nn.Module):
    """Four layers of Castling attention and a linear head: images `(B, 3, 24, 24)` to logits `(B, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        # With the branch on in evaluation, its effect can be measured on the model as it is.
        attention = {"name": "castling", "branch_in_eval": True}
        self.encoder = create_encoder("vit_micro", attention=attention, image_size=PIXELS, patch_size=PATCH)
        self.head = nn.Linear(self.encoder.embed_dim, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        return self.head(self.encoder(images).pooled)


def _castle_a_copy(
    model: GratingClassifier, step: int, schedule: float, images: Tensor, labels: Tensor
) -> CastlingRow:
    copied = copy.deepcopy(model).eval()
    accuracy_before = _accuracy(copied, images, labels)
    report = castle(copied, images[:GAP_IMAGES])
    return CastlingRow(
        case=f"schedule {100 * schedule:.0f} %",
        schedule=schedule,
        step=step,
        branch_scale=report.branch_scale,
        mass_passed=sum(report.mass_passed) / len(report.mass_passed) if report.branch_scale else None,
        output_gap=report.output_gap,
        relative_gap=report.relative_gap,
        accuracy_before=accuracy_before,
        accuracy_after=_accuracy(copied, images, labels),
    )


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(dim=-1) == labels).float().mean())
