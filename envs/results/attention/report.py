"""Where a policy looks, in a report: over its pictures, head by head, and through its masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

from fibo_robot.attention.cores import FibottentionOptions
from fibo_robot.attention.pictures import mask_figure
from fibo_robot.attention.wythoff import layer_order
from fibo_robot.encoders.image import ImageEncoder
from fibo_robot.envs.results.attention.overlay import SeenImage
from fibo_robot.reporting import FIGURE_STYLE, Picture, Report, Section, VideoClip


@dataclass(frozen=True)
class AttentionView:
    """What there is to show of a policy's attention.

    Attributes:
        seed: of the episode that was watched.
        seen: what each camera's encoder saw and attended to at the episode's first decision.
        encoders: by camera.
        videos: mp4 of each camera's attention over the episode, as far as there are any.
    """

    seed: int
    seen: Sequence[SeenImage]
    encoders: Mapping[str, ImageEncoder]
    videos: Mapping[str, Path] = field(default_factory=dict)


def add_attention(report: Report, view: AttentionView) -> Section:
    """Add what the encoders saw and attended to, by layer and head, and Fibottention's masks."""
    section = report.section(
        "Where the policy looks",
        f"The first pictures of seed {view.seed}, and over them how much attention each patch receives, "
        "averaged over heads, layer by layer; brighter is more, relative to each picture's own range.",
    )
    for image in view.seen:
        layers = range(len(image.weights))
        section.images(
            [
                Picture(image.image, f"{image.camera}, as seen"),
                *(Picture(image.overlay(layer), f"{image.camera}, layer {layer + 1}") for layer in layers),
            ]
        )
        section.images(
            [
                Picture(
                    image.heads(layer),
                    f"Layer {layer + 1}, heads 1 to {len(image.weights[layer])}, row by row",
                )
                for layer in layers
            ],
            caption=f"{image.camera}: every head",
            collapsed=True,
        )
    if view.videos:
        section.text("The same over the episode: the last layer, one frame per decision.")
        section.videos(
            [VideoClip(video, f"Seed {view.seed}, {camera}") for camera, video in view.videos.items()]
        )
    add_masks(section, view.encoders)
    return section


def add_masks(section: Section, encoders: Mapping[str, ImageEncoder]) -> None:
    """Add Fibottention's masks of the encoders, by camera; nothing where they have another attention."""
    for key, alike in _by_mask(encoders).items():
        _add_masks(section, key, alike)


def _by_mask(encoders: Mapping[str, ImageEncoder]) -> dict[tuple, dict[str, ImageEncoder]]:
    """Cameras whose encoders have the same Fibottention masks, together."""
    groups: dict[tuple, dict[str, ImageEncoder]] = {}
    for camera, encoder in encoders.items():
        if isinstance(encoder.attention.options, FibottentionOptions):
            blocks: Any = encoder.vit.blocks  # timm's, of whatever kind was asked for
            key = (encoder.attention.options.rule, encoder.grid_size, blocks[0].attn.num_heads, len(blocks))
            groups.setdefault(key, {})[camera] = encoder
    return groups


def _add_masks(section: Section, key: tuple, encoders: Mapping[str, ImageEncoder]) -> None:
    rule, grid, heads, layers = key
    with matplotlib.rc_context({**FIGURE_STYLE, "axes.spines.top": True, "axes.spines.right": True}):
        figure = mask_figure(grid[0] * grid[1], heads, rule, grid=grid)
    section.figure(
        figure,
        f"Fibottention's masks by the rule {rule} ({', '.join(encoders)}). Above, which patch (column) each "
        "patch (row) looks at, dark, for each set of diagonals; below, what the middle patch sees. Each "
        "layer hands the sets to its heads in an order of its own.",
    )
    section.table(
        [
            {"layer": layer + 1}
            | {f"head {place + 1}": index + 1 for place, index in enumerate(layer_order(layer, heads))}
            for layer in range(layers)
        ],
        {"layer": "Layer"} | {f"head {index + 1}": f"Head {index + 1}" for index in range(heads)},
        caption="Which set of diagonals each head of each layer has",
        collapsed=True,
    )
