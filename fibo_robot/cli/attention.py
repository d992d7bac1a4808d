"""`fibo attention`: what attentions look like (`show`), and which reads the frames of clips best (`probe`).

Neither measures speed: that is `fibo bench`.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fibo_robot.benchmarks.probe.summary import ProbeSummary

_READS = {"appearance": ("appearance",), "motion": ("motion",), "both": ("appearance", "motion")}


class Rule(StrEnum):
    """Which offsets a head gets."""

    PAPER = "paper"
    MODIFIED = "modified"
    ROBOT_RELEASE = "robot_release"


def register(app: typer.Typer) -> None:
    """Add `fibo attention` to the command."""
    group = typer.Typer(help="Look at attentions, and compare them on clips.", no_args_is_help=True)
    group.command()(show)
    group.command()(probe)
    app.add_typer(group, name="attention")


def show(
    output: Annotated[Path, typer.Option(help="Folder for masks.png and receptive_field.png.")],
    patches: Annotated[int, typer.Option(min=1, help="Patch tokens along one side of the image.")] = 14,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 12,
    layers: Annotated[int, typer.Option(min=1, help="Layers for the growth of the receptive field.")] = 12,
    rule: Annotated[Rule, typer.Option(help="Which offsets the heads get.")] = Rule.PAPER,
) -> None:
    """Draw each head's Fibonacci mask, and how far information travels over the layers."""
    from fibo_robot.attention.pictures import mask_figure, receptive_field_figure
    from fibo_robot.files import replace_atomically

    figures = {
        "masks.png": mask_figure(patches**2, heads, rule.value, grid=(patches, patches)),
        "receptive_field.png": receptive_field_figure(patches**2, heads, layers),
    }
    for name, figure in figures.items():
        with replace_atomically(output / name) as temporary:
            figure.savefig(temporary, dpi=150)
        typer.echo(output / name)


def probe(
    clips: Annotated[Path, typer.Argument(help="Table of clips with a column that tells the fold.")],
    weights: Annotated[Path, typer.Option(help="Image weights in timm's layout, safetensors.")],
    features: Annotated[Path, typer.Option(help="File that keeps the frames' class tokens.")],
    encoder: Annotated[str, typer.Option(help="The image encoder that the weights fit.")] = (
        "vit_small_patch14_dinov2"
    ),
    image_size: Annotated[int, typer.Option(min=14, help="Pixels of the square frames.")] = 126,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each clip.")] = 16,
    fold_column: Annotated[str, typer.Option(help="Column that tells a clip's fold.")] = "fold",
    inputs: Annotated[str, typer.Option(help=f"Of {', '.join(_READS)}; comma-separated.")] = ",".join(_READS),
    attentions: Annotated[
        str, typer.Option(help="Registered attentions, or none for no transformer; comma-separated.")
    ] = "softmax,fibottention,castling,none",
    seeds: Annotated[int, typer.Option(min=1, help="Probes per input, attention, order and fold.")] = 3,
    json: Annotated[
        Path | None,
        typer.Option(help="Write the rows to this JSON file; a stopped run goes on from it."),
    ] = None,
) -> None:
    """Cross-validate attentions on appearance and motion of clips, beside the same with frames shuffled."""
    import hashlib
    from dataclasses import asdict

    from rich.console import Console

    from fibo_robot.benchmarks.harness import BenchmarkError, read_results, write_results
    from fibo_robot.benchmarks.probe.cross_validation import ProbeRecipe, ProbeRow, cross_validate
    from fibo_robot.benchmarks.probe.features import frame_features, motion_features
    from fibo_robot.benchmarks.probe.summary import summarise
    from fibo_robot.encoders import create_encoder
    from fibo_robot.video.datasets.recognise import read_clips

    names, kinds = inputs.split(","), attentions.split(",")
    for name in names:
        if name not in _READS:
            raise BenchmarkError(f"A probe reads {', '.join(_READS)}; not {name!r}.")
    table, recipe = read_clips(clips, split_column=fold_column), ProbeRecipe()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    settings = {
        "clips": len(table.clips),
        "weights": digest,
        "encoder": encoder,
        "image_size": image_size,
        "frames": frames,
        "recipe": asdict(recipe),
    }
    rows = [ProbeRow(**row) for row in read_results(json, settings)] if json is not None else []
    parts = {part for name in names for part in _READS[name]}
    known = {}
    if "appearance" in parts:
        model = create_encoder(encoder, pretrained=weights, image_size=image_size)
        known["appearance"] = frame_features(table, model, frames, features, digest)
    if "motion" in parts:
        known["motion"] = motion_features(table, frames)
    chosen = {name: [known[part] for part in _READS[name]] for name in names}
    for row in cross_validate(chosen, table, kinds, range(seeds), recipe, done=list(rows)):
        rows.append(row)
        if json is not None:
            write_results(json, [asdict(row) for row in rows], settings)
    # An earlier run may have left rows that were not asked for now.
    asked = [row for row in rows if row.inputs in names and row.attention in kinds and row.seed < seeds]
    Console().print(_shown(summarise(asked), f"{len(table.clips)} clips, accuracy in %"))


def _shown(summaries: "Sequence[ProbeSummary]", title: str) -> "Table":
    from rich.table import Table

    shown = Table("input", "attention", "in order", "shuffled", "by order", "beyond first", title=title)
    for one in summaries:
        spreads = (one.in_order, one.shuffled, one.by_order, one.beyond_first)
        cells = [f"{100 * spread.mean:.1f}±{100 * spread.sd:.1f}" for spread in spreads]
        shown.add_row(one.inputs, one.attention, *cells)
    shown.caption = "Mean ± standard deviation over folds; differences are taken fold by fold."
    return shown
