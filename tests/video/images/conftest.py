"""Small sets of pictures whose class is their colour."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def picture(colour: str, seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A noisy picture of one colour, (width, height) in pixels."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def write_parquet(
    file: Path,
    column: str,
    contents: list[bytes | None],
    labels: Sequence[int | None],
    names: list[str] | None,
) -> None:
    """A parquet file as the Hub's datasets library writes pictures."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)]
    pictures = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({column: pictures, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}, column: {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, file)


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of each colour to train on and 4 to test on, as folders of classes in folders of splits."""
    root = tmp_path_factory.mktemp("coloured")
    for split, count, seed in (("train", 20, 0), ("test", 4, 1000)):
        for number, colour in enumerate(COLOURS):
            folder = root / split / colour
            folder.mkdir(parents=True)
            for index in range(count):
                picture(colour, seed + 100 * number + index).save(folder / f"{index:02d}.png")
    return root
