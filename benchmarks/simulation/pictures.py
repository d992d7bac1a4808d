"""How far Warp's pictures are from OpenGL's: the same scenes drawn by both, side by side and in numbers.

OpenGL draws with everything on (reflections, shadows, four samples a pixel), whatever a task asks for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.files import replace_atomically

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task

OPENGL, WARP = "egl", "warp"
FULL = RenderQuality(shadows=True, reflections=True)
_CELL, _LINE, _MARGIN = 240, 14, 4  # pixels of a sheet
# Differences are drawn so much brighter than they are.
_GAIN = 2


@dataclass(frozen=True)
class PictureRow:
    """One camera of one task.

    Attributes:
        case: `task/camera`.
        scenes: how many were compared.
        difference: mean absolute difference of a colour, of 255.
        spread: smallest and largest of the scenes' means.
        changed: share of pixels in which some colour differs by more than 32 of 255.
    """

    case: str
    scenes: int
    difference: float
    spread: tuple[float, float]
    changed: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def compare(
    task: "Task",
    seeds: Sequence[int],
    sheet: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PictureRow]:
    """Draw every camera of a task with both renderers.

    Args:
        task: whose cameras.
        seeds: a scene each: the start of its episode after up to 20 steps in a direction drawn by the seed.
        sheet: PNG to draw the first scene into: OpenGL, Warp and their difference, a row per camera.
        progress: called with the scenes drawn and wanted.

    Raises:
        RendererError: EGL or MuJoCo Warp is missing.
    """
    cells: dict[str, list[np.ndarray]] = {}
    differences: dict[str, list[np.ndarray]] = {camera: [] for camera in task.cameras}
    for index, pictures in enumerate(_scenes(task, seeds)):
        for camera, (drawn, traced) in pictures.items():
            difference = np.abs(drawn.astype(np.int16) - traced)
            differences[camera].append(difference)
            shown = np.clip(_GAIN * difference, 0, 255).astype(np.uint8)
            cells.setdefault(camera, [drawn, traced, shown])
        progress(index + 1, len(seeds))
    if sheet is not None:
        _draw(sheet, cells)
    return [_row(f"{task.name}/{camera}", found) for camera, found in differences.items()]


def _scenes(task: "Task", seeds: Sequence[int]) -> Iterator[Mapping[str, tuple[np.ndarray, np.ndarray]]]:
    opengl = replace(task, renderer=OPENGL, quality=FULL).make_env([])
    warp = replace(task, renderer=WARP).make_env([])
    size = task.image_size
    for seed in seeds:
        generator = np.random.default_rng(seed)
        direction = generator.uniform(-1, 1, task.action.dim)
        for env in (opengl, warp):
            env.start(seed)
        for _ in range(int(generator.integers(20))):
            opengl.advance(direction)
        warp.show_state(opengl.get_state())
        yield {
            camera: (opengl.render_image(camera, size, size), warp.render_image(camera, size, size))
            for camera in task.cameras
        }
    opengl.close()
    warp.close()


def _row(case: str, differences: Sequence[np.ndarray]) -> PictureRow:
    means = [float(difference.mean()) for difference in differences]
    changed = np.mean([(difference > 32).any(-1).mean() for difference in differences])
    return PictureRow(case, len(means), float(np.mean(means)), (min(means), max(means)), float(changed))


def _draw(sheet: Path, cells: Mapping[str, Sequence[np.ndarray]]) -> None:
    """A row per camera: OpenGL, Warp, difference."""
    height = _LINE + _CELL + _MARGIN
    image = Image.new("RGB", (3 * (_CELL + _MARGIN), height * len(cells)), "white")
    draw = ImageDraw.Draw(image)
    for row, (camera, pictures) in enumerate(cells.items()):
        titles = (f"{camera}: OpenGL", "Warp", f"difference, times {_GAIN}")
        for column, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
            left, top = column * (_CELL + _MARGIN), row * height
            draw.text((left + 2, top), title, fill="black")
            cell = Image.fromarray(picture).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            image.paste(cell, (left, top + _LINE))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(sheet) as temporary:
        image.save(temporary, format="PNG", optimize=True)
