"""Video encoders: clips in, tokens and a pooled vector out, on timm's ViT blocks with any of our attentions.

Three ways for frames to meet, one trunk:

* `joint`: every token attends over all frames at once (after ViViT's model 1). Tokens are ordered raster
  within a frame, then by time, so that an offset of one frame is `H * W` tokens and Fibottention's
  diagonals are neighbours in space (short offsets) and the same places in other frames (long ones).
* `divided`: in each block first over time at one place, then over space in one frame (TimeSformer,
  arXiv 2102.05095, section 3, "divided attention"). The temporal branch starts at zero, so that an
  inflated encoder starts as the image model applied to each frame.
* `frames`: no exchange between frames; features are averaged. It cannot see order: the control.

A tubelet is `tubelet` consecutive frames that share a token.

Two layouts of the trunk: `vit` is the image ViT's own, with learned positions; `videomae` is that of VideoMAE
(arXiv 2203.12602), for its weights: no class token, fixed sinusoidal positions over space and time, and the
final norm after the mean over patches.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fibo_robot.attention import AttentionConfig, create_attention
from fibo_robot.encoders.image import EncoderError, EncoderOutput, create_encoder
from fibo_robot.encoders.space_time import TemporalBranch, TubeletEmbedding, place_block, sinusoidal_positions
from fibo_robot.encoders.videomae import check_videomae_options, load_videomae, to_videomae_layout
from fibo_robot.encoders.weights import WeightsReport, holds_video_weights, load_video_weights

VideoMode = Literal["joint", "divided", "frames"]
VideoLayout = Literal["vit", "videomae"]


class VideoEncoder(nn.Module):
    """A ViT over clips that normalises its own input.

    Attributes:
        vit: the timm trunk; its own patch projection has been replaced by `embed`.
        mode: how frames meet; see the module's text.
        attention: the attention over space (`divided`, `frames`) or over space and time (`joint`).
        temporal_attention: the attention over time in `divided` mode; None otherwise.
        frames: T, frames per clip.
        tubelet: frames per token.
        image_size: (H, W) of the frames it takes.
        embed_dim: D, the width of tokens.
        grid: patch tokens as (T', H', W').
        num_prefix_tokens: class and register tokens.
        gradient_checkpointing: recompute blocks in the backward pass instead of keeping their activations.
        layout: of the trunk; see the module's text.
        weights_report: what became of pretrained weights; None when none were loaded from a file.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        mode: VideoMode,
        attention: AttentionConfig,
        temporal_attention: AttentionConfig | None,
        frames: int,
        tubelet: int,
        inflate: bool,
        layout: VideoLayout = "vit",
    ) -> None:
        super().__init__()
        if frames % tubelet:
            raise EncoderError(f"tubelet ({tubelet}) must divide frames ({frames}).")
        if vit.pos_embed is None and layout == "vit":
            raise EncoderError("video encoders need a ViT with a learned position embedding.")
        self.mode, self.frames, self.tubelet, self.layout = mode, frames, tubelet, layout
        self.attention, self.temporal_attention = attention, temporal_attention
        self.image_size: tuple[int, int] = tuple(vit.patch_embed.img_size)
        self.embed_dim: int = vit.embed_dim
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.grid: tuple[int, int, int] = (frames // tubelet, *vit.patch_embed.grid_size)
        self.gradient_checkpointing = False
        self.weights_report: WeightsReport | None = None
        cfg = vit.pretrained_cfg
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(3, 1, 1), persistent=False)
        self.embed = TubeletEmbedding(vit.patch_embed, tubelet, inflate)
        vit.patch_embed = nn.Identity()
        self.vit = vit
        if layout == "videomae":
            self.register_buffer(
                "positions", sinusoidal_positions(self.grid, self.embed_dim), persistent=False
            )
        elif mode != "frames":
            self.temporal_embed = nn.Parameter(torch.zeros(1, self.grid[0], 1, self.embed_dim))
            if not inflate:
                nn.init.trunc_normal_(self.temporal_embed, std=0.02)  # as timm starts its position embedding
        if mode == "joint":
            for layer, block in enumerate(vit.blocks):
                place_block(block, layer, self.num_prefix_tokens, self.grid)
        if mode == "divided":
            assert temporal_attention is not None
            self.temporal = nn.ModuleList(
                TemporalBranch(
                    type(block.norm1)(self.embed_dim, eps=block.norm1.eps),
                    create_attention(
                        temporal_attention,
                        self.embed_dim,
                        block.attn.num_heads,
                        layer_index=layer,
                        num_prefix_tokens=0,
                        grid=(self.grid[0], 1, 1),
                    ),
                    self.embed_dim,
                )
                for layer, block in enumerate(vit.blocks)
            )

    def no_weight_decay(self) -> set[str]:
        """timm's list of parameters that are not decayed, beside those that the trunk names itself."""
        return {"temporal_embed"}

    def forward(self, clips: Tensor) -> EncoderOutput:
        """Encode `(B, T, 3, H, W)`, float in [0, 1] or uint8, with T and (H, W) as the encoder was built.

        Returns:
            tokens `(B, num_prefix_tokens + T' H' W', D)`, prefix first, then frame by frame; pooled `(B, D)`.
            In `frames` mode the prefix tokens are the means over frames.

        Raises:
            EncoderError: if the shape or dtype does not fit.
        """
        expected = (self.frames, 3, *self.image_size)
        if clips.ndim != 5 or tuple(clips.shape[1:]) != expected:
            raise EncoderError(
                f"clips must be (B, {', '.join(map(str, expected))}), not {tuple(clips.shape)}: sample and "
                "resize them so, or create the encoder with other frames or image_size."
            )
        if clips.dtype == torch.uint8:
            clips = clips.to(self.mean.dtype) / 255
        elif not clips.is_floating_point():
            raise EncoderError(f"clips must be float in [0, 1] or uint8, not {clips.dtype}.")
        patches = self.embed((clips - self.mean) / self.std)
        prefix, patches = self._add_positions(patches)
        run = {"joint": self._joint, "divided": self._divided, "frames": self._frames}[self.mode]
        return run(prefix, patches)

    def _add_positions(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens `(1, P, D)` and patches `(B, T', N, D)`, with position embeddings."""
        vit, num_patches = self.vit, patches.shape[2]
        if self.layout == "videomae":
            return patches.new_zeros(1, 0, self.embed_dim), patches + self.positions
        patches = patches + vit.pos_embed[:, None, -num_patches:]
        if self.mode != "frames":
            patches = patches + self.temporal_embed
        tokens = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        prefix = torch.cat(tokens, dim=1) if tokens else patches.new_zeros(1, 0, self.embed_dim)
        if vit.pos_embed.shape[1] > num_patches:
            prefix = prefix + vit.pos_embed[:, :-num_patches]
        return prefix, patches

    def _joint(self, prefix: Tensor, patches: Tensor) -> EncoderOutput:
        batch = len(patches)
        tokens = torch.cat([prefix.expand(batch, -1, -1), patches.flatten(1, 2)], dim=1)
        tokens = self.vit.norm_pre(self.vit.pos_drop(tokens))
        for block in self.vit.blocks:
            tokens = self._run(block, tokens)
        tokens = self.vit.norm(tokens)
        return EncoderOutput(tokens, self.vit.forward_head(tokens, pre_logits=True))

    def _frames(self, prefix: Tensor, patches: Tensor) -> EncoderOutput:
        batch, num_frames = patches.shape[:2]
        tokens = torch.cat([prefix.expand(batch * num_frames, -1, -1), patches.flatten(0, 1)], dim=1)
        tokens = self.vit.norm_pre(self.vit.pos_drop(tokens))
        for block in self.vit.blocks:
            tokens = self._run(block, tokens)
        tokens = self.vit.norm(tokens)
        pooled = self.vit.forward_head(tokens, pre_logits=True).unflatten(0, (batch, num_frames)).mean(1)
        return EncoderOutput(self._merge(tokens.unflatten(0, (batch, num_frames))), pooled)

    def _divided(self, prefix: Tensor, patches: Tensor) -> EncoderOutput:
        batch, num_frames = patches.shape[:2]
        tokens = torch.cat([prefix.expand(batch * num_frames, -1, -1), patches.flatten(0, 1)], dim=1)
        tokens = self.vit.norm_pre(self.vit.pos_drop(tokens)).unflatten(0, (batch, num_frames))
        for branch, block in zip(self.temporal, self.vit.blocks):
            tokens = self._run(self._divided_block, tokens, branch, block)
        tokens = self.vit.norm(self._merge(tokens))
        return EncoderOutput(tokens, self.vit.forward_head(tokens, pre_logits=True))

    def _divided_block(self, tokens: Tensor, branch: TemporalBranch, block: nn.Module) -> Tensor:
        """One block on `(B, T', P + N, D)`: patches over time, then each frame over space.

        Every frame has its own copy of the prefix tokens while it attends over space; afterwards the copies
        are averaged, so that all frames share one again.
        """
        prefix, patches = tokens.split(
            [self.num_prefix_tokens, tokens.shape[2] - self.num_prefix_tokens], dim=2
        )
        patches = patches + branch(patches)
        shape = tokens.shape[:2]
        tokens = block(torch.cat([prefix, patches], dim=2).flatten(0, 1)).unflatten(0, shape)
        prefix, patches = tokens.split([self.num_prefix_tokens, patches.shape[2]], dim=2)
        return torch.cat([prefix.mean(1, keepdim=True).expand_as(prefix), patches], dim=2)

    def _merge(self, tokens: Tensor) -> Tensor:
        """`(B, T', P + N, D)` to `(B, P + T' N, D)`, prefix tokens averaged over frames."""
        split = self.num_prefix_tokens
        return torch.cat([tokens[:, :, :split].mean(1), tokens[:, :, split:].flatten(1, 2)], dim=1)

    def _run(self, block: Any, tokens: Tensor, *more: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, *more, use_reentrant=False)
        return block(tokens, *more)


def create_video_encoder(
    name: str,
    *,
    mode: VideoMode = "divided",
    attention: str | Mapping[str, Any] = "softmax",
    temporal_attention: str | Mapping[str, Any] = "softmax",
    frames: int = 8,
    tubelet: int = 1,
    layout: VideoLayout = "vit",
    pretrained: bool | str | Path = False,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    pool: Literal["token", "avg"] | None = None,
    drop_path_rate: float = 0.0,
    gradient_checkpointing: bool = False,
) -> VideoEncoder:
    """Build a video encoder on an image ViT.

    Args:
        name: one of the image encoders' presets, or any timm VisionTransformer.
        mode: `divided`, `joint` or `frames`; see the module's text.
        attention: over space, or over space and time in `joint` mode; a name or a mapping with options.
        temporal_attention: over time, in `divided` mode.
        frames: T, frames per clip.
        tubelet: frames per token; divides `frames`.
        layout: `vit`, or `videomae` (in `joint` mode); see the module's text.
        pretrained: image weights to inflate, so that training starts from the image model: path of a
            safetensors file in timm's layout, or True for timm's own (downloaded from the Hugging Face Hub).
            In layout `videomae`, path of a safetensors file of transformers' VideoMAE; see `load_videomae`.
            Or the path of a trained classifier's model.safetensors, to go on from; see `load_video_weights`.
        image_size: pixels, square or (height, width); the model's own when None.
        patch_size: pixels per patch side; the model's own when None.
        pool: `token` (class token) or `avg` (mean of the patch tokens); the model's own when None.
        drop_path_rate: stochastic depth of the deepest layer in training.
        gradient_checkpointing: trade time for memory in training.

    Raises:
        EncoderError: for an unknown name or mode, a tubelet that does not divide the frames.
        AttentionError: for an unknown attention or option.
        WeightsError: if pretrained weights cannot be loaded.
    """
    is_videomae = layout == "videomae"
    if layout not in get_args(VideoLayout):
        raise EncoderError(f"layout must be one of {', '.join(get_args(VideoLayout))}, not {layout!r}.")
    if is_videomae:
        check_videomae_options(mode, pool, pretrained)
    if mode not in get_args(VideoMode):
        raise EncoderError(f"mode must be one of {', '.join(get_args(VideoMode))}, not {mode!r}.")
    if min(frames, tubelet) < 1:
        raise EncoderError(f"frames and tubelet must be at least 1, not {frames} and {tubelet}.")
    load = None
    if not isinstance(pretrained, bool):
        trained = holds_video_weights(pretrained)
        load = load_video_weights if trained else load_videomae if is_videomae else None
    image_weights = False if is_videomae or load is not None else pretrained
    image = create_encoder(
        name,
        attention=attention,
        pretrained=image_weights,
        image_size=image_size,
        patch_size=patch_size,
        pool="avg" if is_videomae else pool,
        drop_path_rate=drop_path_rate,
    )
    if is_videomae:
        to_videomae_layout(image.vit)
    encoder = VideoEncoder(
        image.vit,
        mode=mode,
        attention=image.attention,
        temporal_attention=AttentionConfig.parse(temporal_attention) if mode == "divided" else None,
        frames=frames,
        tubelet=tubelet,
        inflate=image_weights is not False,
        layout=layout,
    )
    encoder.gradient_checkpointing = gradient_checkpointing
    encoder.weights_report = image.weights_report if load is None else load(encoder, pretrained)
    return encoder
