"""Video encoders: clips in, tokens and a pooled vector out, on timm's ViT blocks with any of our attentions.

Three ways for frames to meet, one trunk:

* `joint`: every token attends over all frames at once (after ViViT's model 1). Tokens are ordered raster
  within a frame, then by time, so that an offset of one frame is `H * W` tokens and Fibottention's
  diagonals are neighbours in space (short offsets) and the same places in other frames (long ones).
* `divided`: in each block first over time at one place, then over space in one frame (TimeSformer,
  arXiv 2102.05095, section 3, "divided attention"). Attention over time starts as a copy of the block's own
  behind a projection of zeros, so that an inflated encoder starts as the image model applied to each frame.
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
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fibo_robot.attention import AttentionConfig, AttentionError
from fibo_robot.encoders.image import EncoderOutput, create_encoder, image_and_grid_size
from fibo_robot.encoders.normalise import EncoderError, InputNormalizer
from fibo_robot.encoders.space_time import TemporalBranch, TubeletEmbedding, place_block, sinusoidal_positions
from fibo_robot.encoders.videomae import check_videomae_options, load_videomae, to_videomae_layout
from fibo_robot.encoders.weights import WeightsReport, holds_video_weights, load_video_weights

VideoMode = Literal["joint", "divided", "frames"]
VideoLayout = Literal["vit", "videomae"]


class VideoEncoder(nn.Module):
    """A ViT over clips that normalises its own input.

    Attributes:
        normalise: checks the clips and brings them to the trunk's scale.
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

    positions: Tensor

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
        if not isinstance(vit.patch_embed, PatchEmbed):
            raise EncoderError(
                "video encoders need a ViT that projects patches of pixels, not one behind another network "
                f"({type(vit.patch_embed).__name__}): choose a plain ViT."
            )
        if vit.pos_embed is None and layout == "vit":
            raise EncoderError("video encoders need a ViT with a learned position embedding.")
        self.mode, self.frames, self.tubelet, self.layout = mode, frames, tubelet, layout
        self.attention, self.temporal_attention = attention, temporal_attention
        self.image_size, grid_size = image_and_grid_size(vit)
        self.embed_dim: int = vit.embed_dim
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.grid: tuple[int, int, int] = (frames // tubelet, *grid_size)
        self.gradient_checkpointing = False
        self.weights_report: WeightsReport | None = None
        self.normalise = InputNormalizer(
            vit,
            "clips",
            (frames, 3, *self.image_size),
            "sample and resize them so, or create the encoder with other frames or image_size.",
        )
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
        if mode == "divided":
            assert temporal_attention is not None
            self.temporal = nn.ModuleList(TemporalBranch(block, temporal_attention) for block in vit.blocks)
        self.place_attention()

    def place_attention(self, image_size: tuple[int, int] | None = None) -> None:
        """Tell every attention its layer and how the tokens that meet in it are laid out.

        Raises:
            AttentionError: if `image_size` is not the encoder's own, which nothing can change later.
        """
        if image_size not in (None, self.image_size):
            raise AttentionError(f"image_size must be the encoder's own {self.image_size}, not {image_size}.")
        steps, height, width = self.grid
        over_space = self.grid if self.mode == "joint" else (1, height, width)
        for layer, block in enumerate(self.vit.blocks):
            place_block(block, layer, self.num_prefix_tokens, over_space)
        if self.mode == "divided":
            for layer, branch in enumerate(self.temporal):
                place_block(branch, layer, 0, (steps, 1, 1))

    def example_input(self) -> Tensor:
        """Two clips of random pixels."""
        shape = (2, self.frames, 3, *self.image_size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.normalise.mean)

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
        patches = self.embed(self.normalise(clips))
        prefix, patches = self._add_positions(patches)
        run = {"joint": self._joint, "divided": self._divided, "frames": self._frames}[self.mode]
        return run(prefix, patches)

    def _add_positions(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens `(1, P, D)` and patches `(B, T', N, D)`, with position embeddings."""
        vit, num_patches = self.vit, patches.shape[2]
        if vit.pos_embed is None:  # layout videomae
            return patches.new_zeros(1, 0, self.embed_dim), patches + self.positions
        patches = patches + vit.pos_embed[:, None, -num_patches:]
        if self.mode != "frames":
            patches = patches + self.temporal_embed
        distillation = getattr(vit, "dist_token", None)  # of timm's distilled DeiTs
        given = (vit.cls_token, distillation, vit.reg_token)
        tokens: list[Tensor] = [token for token in given if token is not None]
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
        tokens = torch.cat([prefix.expand(len(patches), -1, -1), patches.flatten(1, 2)], dim=1)
        tokens = self.vit.norm_pre(self.vit.pos_drop(tokens))
        for branch, block in zip(self.temporal, self.vit.blocks):
            tokens = self._run(self._divided_block, tokens, branch, block)
        tokens = self.vit.norm(tokens)
        return EncoderOutput(tokens, self.vit.forward_head(tokens, pre_logits=True))

    def _divided_block(self, tokens: Tensor, branch: TemporalBranch, block: Any) -> Tensor:
        """One block on `(B, P + T' N, D)`: patches over time, each frame over space, then the MLP.

        Every frame has its own copy of the prefix tokens while it attends over space; the copies are averaged
        before the MLP.
        """
        split, steps = self.num_prefix_tokens, self.grid[0]
        prefix, patches = tokens[:, :split], tokens[:, split:].unflatten(1, (steps, -1))
        patches = patches + branch(patches)
        copies = prefix[:, None].expand(-1, steps, -1, -1)
        frames = torch.cat([copies, patches], dim=2)
        mixed = block.ls1(block.attn(block.norm1(frames.flatten(0, 1))))
        tokens = self._merge(frames + block.drop_path1(mixed).unflatten(0, frames.shape[:2]))
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))

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
    video_weights = None
    if not isinstance(pretrained, bool) and (is_videomae or holds_video_weights(pretrained)):
        video_weights = pretrained
    image_weights = False if is_videomae or video_weights is not None else pretrained
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
    encoder.weights_report = image.weights_report
    if video_weights is not None:
        load = load_video_weights if holds_video_weights(video_weights) else load_videomae
        encoder.weights_report = load(encoder, video_weights)
    return encoder
