"""`fibo bench video`: joint space-time models with each attention, against dense fused attention.

Whole encoders are timed. What attention can be worth to them is timed beside: the same encoder with an
attention that costs nothing, as it hands every token its own value. At N tokens of width D attention is
N / (6D + N) of the multiply-adds, but these do not take the same time everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from fibo_robot.attention import AttentionModule
from fibo_robot.attention.cores import AttentionCore
from fibo_robot.benchmarks.attention.sweep import attention_share
from fibo_robot.benchmarks.harness import interleave, speedup
from fibo_robot.encoders import create_video_encoder
from fibo_robot.progress import track

IMAGE_SIZE = 224
DENSE, FREE = "softmax", "free"
MODELS = (DENSE, "fibottention", "castling", FREE)
MODEL_FRAMES = (16, 32)  # 1,568 and 3,136 patch tokens
_VIT, _WIDTH, _TUBELET, _PATCH = "vit_small_patch16_224", 384, 2, 16


@dataclass(frozen=True)
class ModelRow:
    """One encoder, inference on one clip at a time.

    Attributes:
        case: its attention; `softmax` is dense and fused, `free` does nothing.
        frames: of the clip.
        tokens: patch tokens that attend to each other; a class token comes on top.
        clips_per_s: median over the rounds.
        speedup_vs_dense: median of dense time over own time within each round; `spread`: its quartiles.
        of_free: median of the time with free attention over own time within each round: 1 is the ceiling.
        attention_share: attention's share of the dense model's multiply-adds.
        rounds: how many were timed.
    """

    case: str
    frames: int
    tokens: int
    clips_per_s: float
    speedup_vs_dense: float
    spread: tuple[float, float]
    of_free: float
    attention_share: float
    rounds: int

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def measure_models(
    frames: Sequence[int] = MODEL_FRAMES,
    image_size: int = IMAGE_SIZE,
    rounds: int = 5,
    device: str = "cpu",
) -> list[ModelRow]:
    """Time joint space-time ViT-S encoders, interleaved, in float32.

    Args:
        frames: of the clips, one group of rows for each.
        image_size: pixels of the square frames.
        rounds: each runs every encoder once.
        device: `cpu` or `cuda`.
    """
    rows = []
    for count in track(frames, "models"):
        tokens = count // _TUBELET * (image_size // _PATCH) ** 2
        share = attention_share(tokens, _WIDTH)
        clip = torch.rand(1, count, 3, image_size, image_size, device=device)
        cases = {name: _inference(name, clip, device) for name in MODELS}
        seconds = interleave(cases, rounds, device=device)
        for name, times in seconds.items():
            ratio, spread = speedup(seconds[DENSE], times)
            of_free, _ = speedup(seconds[FREE], times)
            rate = 1 / float(np.median(times))
            rows.append(ModelRow(name, count, tokens, rate, ratio, spread, of_free, share, rounds))
    return rows


class _FreeCore(AttentionCore):
    """Attention at no cost: every token keeps its own value."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None = None
    ) -> torch.Tensor:
        return v


def _inference(attention: str, clip: torch.Tensor, device: str) -> Callable[[], object]:
    frames, size = clip.shape[1], clip.shape[-1]
    encoder = create_video_encoder(
        _VIT,
        mode="joint",
        attention=DENSE if attention == FREE else attention,
        frames=frames,
        tubelet=_TUBELET,
        image_size=size,
    )
    encoder = encoder.to(device).eval()
    for module in encoder.modules():
        if attention == FREE and isinstance(module, AttentionModule):
            module.core = _FreeCore(module.num_heads, module.head_dim, None)

    def call() -> object:
        with torch.inference_mode():
            return encoder(clip)

    return call
