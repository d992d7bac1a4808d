"""`fibo bench probe`: attentions compared on frozen image features, over the folds of a table of clips."""

from pathlib import Path
from typing import Annotated

import typer


def probe(
    clips: Annotated[Path, typer.Argument(help="Table of clips with a column that tells the fold.")],
    weights: Annotated[Path, typer.Option(help="Image weights in timm's layout, safetensors.")],
    features: Annotated[Path, typer.Option(help="File that keeps the frames' features.")],
    encoder: Annotated[str, typer.Option(help="The image encoder that the weights fit.")] = (
        "vit_small_patch14_dinov2"
    ),
    image_size: Annotated[int, typer.Option(min=14, help="Pixels of the square frames.")] = 126,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each clip.")] = 16,
    fold_column: Annotated[str, typer.Option(help="Column that tells a clip's fold.")] = "fold",
    attentions: Annotated[str, typer.Option(help="Registered attentions, comma-separated.")] = (
        "softmax,fibottention,castling"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Probes per attention, order and fold.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")] = None,
) -> None:
    """Cross-validate attentions on frozen features of clips, beside the same with frames shuffled."""
    import hashlib
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from fibo_robot.benchmarks import probe as benchmark
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.encoders import create_encoder
    from fibo_robot.video.sources import read_clips

    table = read_clips(clips, split_column=fold_column)
    model = create_encoder(encoder, pretrained=weights, image_size=image_size)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    tokens = benchmark.frame_features(table, model, frames, features, digest)
    rows: list[benchmark.ProbeRow] = []
    names, recipe = attentions.split(","), benchmark.ProbeRecipe()
    for row in benchmark.cross_validate(tokens, table, names, range(seeds), recipe):
        rows.append(row)
        if json is not None:  # an interrupted comparison keeps what it has
            write_results(json, [asdict(row) for row in rows])
    shown = Table("attention", "frames", "accuracy", "sd over folds", title=f"{len(table.clips)} clips")
    for summary in benchmark.summarise(rows):
        order = "shuffled" if summary.shuffled else "in order"
        percents = (f"{100 * value:.1f} %" for value in (summary.mean, summary.spread))
        shown.add_row(summary.case, order, *percents)
    Console().print(shown)
