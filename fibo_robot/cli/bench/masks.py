"""`fibo bench masks`: pictures of each head's mask and of how far information travels."""

from pathlib import Path
from typing import Annotated

import typer


def masks(
    output: Annotated[Path, typer.Option(help="Folder for masks.png and receptive_field.png.")],
    patches: Annotated[int, typer.Option(help="Patch tokens along one side of the image.")] = 14,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 12,
    layers: Annotated[int, typer.Option(help="Layers for the growth of the receptive field.")] = 12,
    rule: Annotated[str, typer.Option(help="paper, modified or robot_release.")] = "paper",
) -> None:
    """Draw each head's mask, and how far information travels over the layers."""
    from fibo_robot.attention.pictures import mask_figure, receptive_field_figure
    from fibo_robot.files import replace_atomically

    figures = {
        "masks.png": mask_figure(patches**2, heads, rule, grid=(patches, patches)),
        "receptive_field.png": receptive_field_figure(patches**2, heads, layers),
    }
    for name, figure in figures.items():
        with replace_atomically(output / name) as temporary:
            figure.savefig(temporary, dpi=150)
        typer.echo(output / name)
