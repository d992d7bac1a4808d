"""Training steps of whole encoders in bfloat16 autocast: dense attention, Fibottention and Castling.

A step is forward, backward and AdamW. Fibottention runs as `choose_backend` chooses, and once more with its
kernel where that is another choice. Castling trains with its branch, and after its schedule without.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fibo_robot.attention import choose_backend, force_backend
from fibo_robot.attention.sparse.diagonal import Backend
from fibo_robot.attention.swapping.swap import angular_cores
from fibo_robot.benchmarks.gpu.speed import Rounds, time_launches, usable
from fibo_robot.benchmarks.harness import peak_memory_mb
from fibo_robot.encoders import create_encoder, create_video_encoder

DENSE = "dense"


@dataclass(frozen=True)
class TrainingCase:
    """One encoder and input.

    Attributes:
        kind: `image`, or how the frames of a video meet (`divided`, `joint`).
        encoder: a timm ViT or a preset.
        image_size, patch_size: pixels.
        frames: of a clip; 1 for an image.
        batch: images or clips per step.
    """

    kind: Literal["image", "divided", "joint"]
    encoder: str
    image_size: int
    patch_size: int
    frames: int
    batch: int

    @property
    def name(self) -> str:
        """Unique among the cases."""
        return f"{self.kind} {self.encoder}, {self.frames} x {self.image_size} px, batch {self.batch}"

    @property
    def tokens(self) -> int:
        """Tokens that meet in one attention over space, the class token included."""
        frames = self.frames if self.kind == "joint" else 1
        return frames * (self.image_size // self.patch_size) ** 2 + 1


def measure(case: TrainingCase, device: str, kernel: Backend, rounds: Rounds) -> list[dict[str, Any]]:
    """Rows of one case, one per attention; arguments as of `speed.measure`."""
    chosen = choose_backend(torch.device(device), case.tokens, torch.bfloat16)
    shape = (case.batch, case.frames, 3, case.image_size, case.image_size)
    pixels = torch.rand(shape if case.kind != "image" else (case.batch, *shape[2:]), device=device)
    steps: dict[str, Callable[[], object]] = {}
    for name, attention in (
        (DENSE, "softmax"),
        ("fibottention", "fibottention"),
        ("castling_with_branch", "castling"),
        ("castling", "castling"),
    ):
        model = _encoder(case, attention).to(device).train()
        if name == "castling":
            for _, core in angular_cores(model):
                core.set_branch_scale(0)
        on_cuda = device == "cuda"
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=on_cuda, capturable=on_cuda)
        steps[name] = step = partial(_step, model, optimizer, pixels, device)
        if name == "fibottention" and chosen != kernel:
            steps[f"fibottention_{kernel}"] = partial(_with_backend, kernel, step)
    steps, left_out = usable(steps)
    memory = {name: peak_memory_mb(step, device) for name, step in steps.items()}
    rows, not_captured = time_launches(steps, [DENSE], device, rounds)
    for row in rows:
        row["examples_per_s"] = 1000 * case.batch / row["milliseconds"]
        row["peak_memory_mb"] = memory[row["op"]]
    left_out |= not_captured
    about = {**asdict(case), "tokens": case.tokens, "chosen_backend": chosen}
    return [{**about, **row} for row in rows + [{"left_out": left_out}] * bool(left_out)]


def _encoder(case: TrainingCase, attention: str) -> nn.Module:
    options: dict[str, Any] = {"image_size": case.image_size, "patch_size": case.patch_size}
    if case.kind == "image":
        return create_encoder(case.encoder, attention=attention, **options)
    return create_video_encoder(
        case.encoder, mode=case.kind, attention=attention, frames=case.frames, tubelet=1, **options
    )


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, device: str) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16):
        loss = model(pixels).pooled.float().square().mean()
    loss.backward()
    optimizer.step()


def _with_backend(kernel: Backend, call: Callable[[], object]) -> object:
    with force_backend(kernel):
        return call()
