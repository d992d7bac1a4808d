"""Attention cores: what happens between the projections, `(q, k, v) -> out` on `(B, heads, N, head_dim)`.

A core knows where it stands: its layer's index, how many prefix tokens lead the sequence, and the grid of the
patch tokens. Model builders say so through :meth:`AttentionCore.place`. The modules in modules.py put
projections around a core; on Hugging Face models the core stands behind the attention interface alone.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from operator import index
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention.castling.angular import (
    CONSTANT_TERMS,
    ConstantTerm,
    castling_inference,
    linear_angular,
)
from fibo_robot.attention.castling.branch import strongest_softmax, threshold_of_mass
from fibo_robot.attention.castling.training import castling_training
from fibo_robot.attention.checks import require_choice
from fibo_robot.attention.compiling import constant_result
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.sparse.controls import RULES, ControlRule, rule_offsets
from fibo_robot.attention.sparse.diagonal import MASK_MODES, MaskMode, diagonal_attention
from fibo_robot.attention.wythoff import OffsetRule, layer_order

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class SoftmaxOptions:
    """Dense softmax attention has none."""


@dataclass(frozen=True)
class FibottentionOptions:
    """Options of Fibottention.

    Attributes:
        rule: which offsets a head gets; see `wythoff.head_offsets`, and for controls `controls.rule_offsets`.
        mask_mode: what a masked pair gets; see `diagonal_attention`.
    """

    rule: OffsetRule | ControlRule = "paper"
    mask_mode: MaskMode = "drop"

    def __post_init__(self) -> None:
        require_choice("rule", self.rule, RULES)
        require_choice("mask_mode", self.mask_mode, MASK_MODES)


@dataclass(frozen=True)
class CastlingOptions:
    """Options of Castling's linear-angular attention.

    Attributes:
        const_term: what the kernel's constant multiplies; see `angular.linear_angular`.
        dwconv: depthwise convolution over v. `tokens`: 9 taps along the flattened sequence, class token
            included, one filter per head (the released form). `grid`: 3 taps along each axis of the patch
            grid, one filter per channel; prefix tokens get nothing.
        branch_mass: share of the softmax mass that the branch keeps, in (0, 1]: each head's strongest
            weights, down to a threshold found anew in every batch. So it passes something from the first
            step on, where softmax is near uniform and no weight is far above another.
        threshold: instead of that, keep weights above this many times the uniform 1/N, as the released code
            does (its 0.02 is 4 times uniform at 196 tokens): nothing, until softmax has become sharp.
        branch_in_eval: keep the branch on in evaluation mode, as the released code does.
    """

    const_term: ConstantTerm = "own"
    dwconv: str = "tokens"
    branch_mass: float = 0.5
    threshold: float | None = None
    branch_in_eval: bool = False

    def __post_init__(self) -> None:
        require_choice("const_term", self.const_term, CONSTANT_TERMS)
        require_choice("dwconv", self.dwconv, ("tokens", "grid"))
        if not 0 < self.branch_mass <= 1:
            raise AttentionError(f"branch_mass must lie in (0, 1], not {self.branch_mass}.")
        if self.threshold is not None and not self.threshold > 0:
            raise AttentionError(f"threshold must be above 0, not {self.threshold}.")


class AttentionCore(nn.Module):
    """Base of the cores.

    Attributes:
        order_matters: whether a patch's output depends on where in the sequence patches stand.
        layer_index: 0-based index of the transformer layer; None until placed.
        num_prefix_tokens: tokens before the first patch; None until placed.
        grid: patch tokens as (T, H, W), flattened in this order; None where the model did not say.
    """

    options_type: ClassVar[type]
    order_matters: ClassVar[bool] = True

    def __init__(self, num_heads: int, head_dim: int, options: object) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.options = options
        self.layer_index: int | None = None
        self.num_prefix_tokens: int | None = None
        self.grid: Grid | None = None

    def place(self, layer_index: int, num_prefix_tokens: int, grid: Grid | None = None) -> None:
        """Tell the core which layer it is in and how its tokens are laid out.

        Raises:
            AttentionError: if an argument is negative, or the grid has an empty axis.
        """
        if layer_index < 0:
            raise AttentionError(f"layer_index must be at least 0, not {layer_index}.")
        if num_prefix_tokens < 0:
            raise AttentionError(f"num_prefix_tokens must be at least 0, not {num_prefix_tokens}.")
        if grid is not None and (len(grid) != 3 or min(grid) < 1):
            raise AttentionError(f"grid must be three positive counts (T, H, W), not {grid}.")
        self.layer_index = layer_index
        self.num_prefix_tokens = num_prefix_tokens
        self.grid = None if grid is None else (int(grid[0]), int(grid[1]), int(grid[2]))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        """Mix tokens: `(B, heads, N, head_dim)` each, same shape out; `scale` is head_dim ** -0.5 if None."""
        raise NotImplementedError

    def weigh(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The part of :meth:`forward` that weighs values by attention: what pictures of it are read from.

        It calls no hooks of this module.
        """
        return self.forward(q, k, v)

    def _placement(self) -> tuple[int, int]:
        if self.layer_index is None or self.num_prefix_tokens is None:
            raise AttentionError(
                f"This {type(self).__name__} does not know its layer_index and num_prefix_tokens yet: call "
                "place_attention(model) on the timm model that holds it, or place(...) on the module."
            )
        return self.layer_index, self.num_prefix_tokens

    def _num_patches(self, num_tokens: int) -> int:
        _, num_prefix_tokens = self._placement()
        num_patches = num_tokens - num_prefix_tokens
        if self.grid is not None and num_patches != prod(self.grid):
            raise AttentionError(
                f"The sequence has {num_tokens} tokens, but grid {self.grid} and num_prefix_tokens "
                f"{num_prefix_tokens} make {prod(self.grid) + num_prefix_tokens}: place the module again for "
                "this input size."
            )
        return num_patches


class SoftmaxCore(AttentionCore):
    """Dense softmax attention through PyTorch's fused kernels."""

    options_type = SoftmaxOptions
    order_matters = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)


class DiagonalCore(AttentionCore):
    """Fibottention: each head attends along its own diagonals; the same ones in training and evaluation."""

    options_type = FibottentionOptions
    options: FibottentionOptions

    def place(self, layer_index: int, num_prefix_tokens: int, grid: Grid | None = None) -> None:
        """As :meth:`AttentionCore.place`; warns once of heads that see no patch on this grid."""
        super().place(layer_index, num_prefix_tokens, grid)
        if grid is not None:
            self.offsets(prod(grid) + num_prefix_tokens)

    def offsets(self, num_tokens: int) -> tuple[tuple[int, ...], ...]:
        """Offsets of every head of this layer for a sequence of `num_tokens`, prefix tokens included."""
        layer_index, num_prefix_tokens = self._placement()
        num_patches = index(self._num_patches(num_tokens))  # a compiled graph is of one number of tokens
        return _constant_offsets(
            num_patches, self.num_heads, layer_index, self.options.rule, num_prefix_tokens
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        _, num_prefix_tokens = self._placement()
        return diagonal_attention(
            q,
            k,
            v,
            self.offsets(q.shape[-2]),
            num_prefix_tokens=num_prefix_tokens,
            mask_mode=self.options.mask_mode,
            scale=scale,
        )


@constant_result
def _constant_offsets(
    num_patches: int, num_heads: int, layer_index: int, rule: OffsetRule | ControlRule, num_prefix_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Offsets as a constant of the compiled graph; Python's random module is not traced."""
    if num_patches == 0:
        return ((),) * num_heads
    _warn_of_empty_heads(num_patches, num_heads, rule, num_prefix_tokens > 0)
    return rule_offsets(num_patches, num_heads, layer_index, rule)


@lru_cache(maxsize=256)  # once per shape
def _warn_of_empty_heads(
    num_patches: int, num_heads: int, rule: OffsetRule | ControlRule, has_prefix: bool
) -> None:
    offsets = dict(zip(layer_order(0, num_heads), rule_offsets(num_patches, num_heads, 0, rule)))
    empty = [str(head + 1) for head, head_set in sorted(offsets.items()) if not head_set]
    if empty:
        what = "see the prefix tokens alone" if has_prefix else "return zeros"
        warnings.warn(
            f"Fibottention (rule {rule}) on {num_patches} patches: {len(empty)} of {num_heads} heads "
            f"({', '.join(empty)}, before the layers permute them) have no offset that short and {what}. "
            "Use fewer heads or a dense attention for sequences this short.",
            stacklevel=2,
        )


class AngularCore(AttentionCore):
    """Castling: y = linear-angular (+ branch), y / ‖y‖ over the head dimension, plus a depthwise conv of v.

    The branch runs in training, scaled by `branch_scale`; the schedule takes it to exactly 0 (see
    fibo_robot.training.callbacks.castling). It has no parameters: its scale is all that the state dict holds
    of it, and a model that was castled and saved is castled when it is loaded.

    Attributes:
        branch_scale: 0-d buffer; set it through :meth:`set_branch_scale` or by loading a state dict.
        branch_enabled: whether the scale is above 0, known without asking the device.
        mass_passed: 0-d buffer, outside the state dict: share of softmax mass that the branch's mask passed
            in the last forward pass that ran it, whatever its scale; 0 while the branch is off.
    """

    options_type = CastlingOptions
    options: CastlingOptions
    branch_scale: Tensor
    mass_passed: Tensor

    TAPS_ALONG_TOKENS = 9
    TAPS_PER_AXIS = 3

    def __init__(self, num_heads: int, head_dim: int, options: CastlingOptions) -> None:
        super().__init__(num_heads, head_dim, options)
        self.register_buffer("branch_scale", torch.ones(()))
        self.register_buffer("mass_passed", torch.zeros(()), persistent=False)
        self.branch_enabled = True
        self.dwconv: nn.Conv2d | nn.Conv3d
        if options.dwconv == "tokens":
            taps = self.TAPS_ALONG_TOKENS
            self.dwconv = nn.Conv2d(
                num_heads, num_heads, (taps, 1), padding=(taps // 2, 0), groups=num_heads, bias=False
            )
        else:
            self.dwconv = nn.Conv3d(
                num_heads * head_dim,
                num_heads * head_dim,
                self.TAPS_PER_AXIS,
                padding=self.TAPS_PER_AXIS // 2,
                groups=num_heads * head_dim,
                bias=False,
            )

    def set_branch_scale(self, scale: float) -> None:
        """Scale the branch by a factor in [0, 1]; at 0 it is not computed at all.

        Raises:
            AttentionError: if `scale` lies outside [0, 1].
        """
        if not 0 <= scale <= 1:
            raise AttentionError(f"scale of the branch must lie in [0, 1], not {scale}.")
        self.branch_scale.fill_(scale)
        self.branch_enabled = scale > 0
        if not self.branch_enabled:
            self.mass_passed.zero_()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        if self.grid is not None:  # where tokens are left out, the convolution would join strangers
            self._num_patches(q.shape[-2])
        branch_runs = self.branch_enabled and (self.training or self.options.branch_in_eval)
        branch_runs = branch_runs and q.shape[0] > 0  # of no example there is no mass that could pass
        along_tokens = self.options.dwconv == "tokens"
        taps = self.dwconv.weight.flatten(1) if along_tokens else None
        branch, const_term = None, self.options.const_term
        if branch_runs:
            factor: float = self.head_dim**-0.5 if scale is None else scale
            threshold = self.options.threshold
            if threshold is None:
                threshold = threshold_of_mass(q, k, self.options.branch_mass, factor)
            branch, passed = strongest_softmax(q, k, v, threshold=threshold, scale=factor)
            self.mass_passed.copy_(passed)
        # A trace is of one operator, with gradients or without: PyTorch compares the two.
        traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if branch is None and not torch.is_grad_enabled() and not traced:
            out = castling_inference(q, k, v, const_term, taps)
        else:
            out = castling_training(q, k, v, const_term, taps, branch, self.branch_scale)
        return out if along_tokens else out + self._convolve_grid(v)

    def weigh(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_angular(q, k, v, self.options.const_term)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.branch_scale.is_meta:
            self.branch_enabled = float(self.branch_scale) > 0

    def _convolve_grid(self, v: Tensor) -> Tensor:
        batch, heads, num_tokens, head_dim = v.shape
        self._num_patches(num_tokens)
        if self.grid is None:
            raise AttentionError("dwconv 'grid' needs the token grid: place the module with grid=(T, H, W).")
        _, num_prefix_tokens = self._placement()
        patches = v[:, :, num_prefix_tokens:].transpose(2, 3).reshape(batch, heads * head_dim, *self.grid)
        mixed = self.dwconv(patches).reshape(batch, heads, head_dim, prod(self.grid)).transpose(2, 3)
        return F.pad(mixed, (0, 0, num_prefix_tokens, 0))
