"""AFNO: patches are mixed by a small complex network on their Fourier transform."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule

INITIAL_SCALE = 0.02  # of the complex weights, as in the released code


@dataclass(frozen=True)
class AFNOOptions:
    """Options of AFNO.

    Attributes:
        sparsity_threshold: λ of the soft shrinkage that zeroes weak frequencies.
    """

    sparsity_threshold: float = 0.01

    def __post_init__(self) -> None:
        if self.sparsity_threshold < 0:
            raise AttentionError(f"sparsity_threshold must be at least 0, not {self.sparsity_threshold}.")


class AFNOCore(AttentionCore):
    """Adaptive Fourier Neural Operator on the patch grid of v.

    AFNO (arXiv 2111.13587), section 4 and its pseudo-code: a real FFT over (T, H, W) (2-D for images, where
    T = 1), at every frequency the same two-layer complex network with one block of weights per head and ReLU
    on real and imaginary parts, soft shrinkage, the inverse FFT, and the input added. O(N·d·(log N + d)).

    It is no attention: q and k are projected as in any other module but have no influence, and get zero
    gradients. The paper mixes the tokens themselves, without a projection before and after. Prefix tokens are
    no part of the grid; they keep their v. Transforms are computed in float32 at least. The formula has no
    place for `scale`. State-dict keys, real and imaginary parts last: `hidden_weight`, `hidden_bias`,
    `out_weight`, `out_bias`.
    """

    options_type = AFNOOptions
    options: AFNOOptions

    def __init__(self, num_heads: int, head_dim: int, options: AFNOOptions) -> None:
        super().__init__(num_heads, head_dim, options)
        for layer in ("hidden", "out"):
            weight = INITIAL_SCALE * torch.randn(num_heads, head_dim, head_dim, 2)
            self.register_parameter(f"{layer}_weight", nn.Parameter(weight))
            self.register_parameter(
                f"{layer}_bias", nn.Parameter(INITIAL_SCALE * torch.randn(num_heads, head_dim, 2))
            )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        _, num_prefix_tokens = self._placement()
        self._num_patches(v.shape[-2])
        if self.grid is None:
            raise AttentionError(
                "afno needs the token grid: call place_attention(model, image_size=(height, width)), or "
                "place(...) on the module."
            )
        if v.shape[0] == 0:
            return v  # libraries refuse to transform nothing
        patches = v[:, :, num_prefix_tokens:].transpose(1, 2).unflatten(1, self.grid)
        with torch.autocast(v.device.type, enabled=False):
            exact = patches.to(torch.promote_types(v.dtype, torch.float32))
            spectrum = torch.fft.rfftn(exact, dim=(1, 2, 3), norm="ortho")
            spectrum = torch.view_as_complex(F.relu(self._linear(spectrum, "hidden")))
            spectrum = F.softshrink(self._linear(spectrum, "out"), self.options.sparsity_threshold)
            spectrum = torch.view_as_complex(spectrum)
            mixed = torch.fft.irfftn(spectrum, s=self.grid, dim=(1, 2, 3), norm="ortho")
        mixed = (mixed.to(v.dtype) + patches).flatten(1, 3).transpose(1, 2)
        return torch.cat([v[:, :, :num_prefix_tokens], mixed], dim=2)

    def _linear(self, spectrum: Tensor, layer: str) -> Tensor:
        """One complex layer on `(B, T, H, W', heads, d)`; the answer's last axis is (real, imaginary)."""
        weight, bias = (
            torch.view_as_complex(getattr(self, f"{layer}_{part}").to(spectrum.real.dtype))
            for part in ("weight", "bias")
        )
        return torch.view_as_real(torch.einsum("...hi,hio->...ho", spectrum, weight) + bias)


class AFNO(AttentionModule):
    """Adaptive Fourier Neural Operator (arXiv 2111.13587); options: `AFNOOptions`."""

    name = "afno"
    core_type = AFNOCore
