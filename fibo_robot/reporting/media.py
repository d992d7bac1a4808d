"""Pictures, figures and videos as text that stands inside an HTML page.

Figures become inline SVG whose ink and paper follow the page's light or dark colours; one too heavy for
that becomes a PNG. Videos are embedded as they are, and must be what every browser plays.
"""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
from av.error import FFmpegError
from cycler import cycler
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from fibo_robot.errors import FiboError

# Colours that keep a contrast of at least 3:1 on the page's white and on its dark paper.
FIGURE_STYLE: dict[Any, Any] = {
    "figure.figsize": (6.6, 3.4),
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.prop_cycle": cycler(color=["#2f7ed8", "#d9730d", "#2e9e6b", "#c4508f", "#8a6fd1", "#8c8c3e"]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#8c93a3",
    "grid.alpha": 0.25,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}
"""matplotlib settings for figures in a report: `with matplotlib.rc_context(FIGURE_STYLE): ...`."""

# An SVG of a scatter with tens of thousands of points is slow to draw; above this it becomes a picture.
MAX_SVG_BYTES = 600_000
# On a wide screen; a figure of 6.6 inches then fills the page's column for text and plots.
SVG_PIXELS_PER_POINT = 1.55
# Two picture pixels per CSS pixel, so that a figure stays sharp on a phone's dense screen.
PNG_DPI = 200
# Camera images of 84 pixels are shown enlarged to about this many CSS pixels.
SMALL_IMAGE_WIDTH = 336
# Stand-ins for "the page's text colour" and "the page's paper"; colours that nobody draws with.
_INK, _PAPER = "#010203", "#fdfcfb"


class ReportError(FiboError):
    """Something given to a report cannot be shown in it."""


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a data URI, and the width in CSS pixels to show it at (None: its own)."""

    uri: str
    width: int | None = None


def data_uri(mime: str, data: bytes) -> str:
    """`data` as a base64 data URI."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def encode_image(image: Path | str | np.ndarray) -> EncodedImage:
    """Embed a PNG, JPEG, GIF or WebP file, or a uint8 array `(H, W)`, `(H, W, 3)` or `(H, W, 4)`.

    Raises:
        ReportError: the file is missing or no such picture, or the array has another shape or type.
    """
    if isinstance(image, np.ndarray):
        is_picture = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not is_picture or image.size == 0:
            raise ReportError(
                f"An image for a report must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), "
                f"not {image.dtype} {image.shape}."
            )
        picture = Image.fromarray(image)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        mime, data = "image/png", buffer.getvalue()
    else:
        try:
            data = Path(image).read_bytes()
            picture = Image.open(io.BytesIO(data))
        except (OSError, UnidentifiedImageError) as error:
            raise ReportError(f"Cannot read the picture {image} for the report: {error}.") from error
        mime = picture.get_format_mimetype() or ""
        if mime not in ("image/png", "image/jpeg", "image/gif", "image/webp"):
            raise ReportError(f"{image} is {picture.format}; a report shows PNG, JPEG, GIF and WebP.")
    enlarge = SMALL_IMAGE_WIDTH // picture.width
    return EncodedImage(data_uri(mime, data), picture.width * enlarge if enlarge >= 2 else None)


def encode_video(path: Path | str) -> str:
    """Embed an mp4 file as a data URI, after checking that browsers play it (H.264, yuv420p).

    Raises:
        ReportError: the file is missing, does not open, or holds another codec or pixel format.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        with av.open(io.BytesIO(data)) as container:
            stream = next(iter(container.streams.video), None)
            found = (stream.codec_context.name, stream.codec_context.pix_fmt) if stream else None
            is_mp4 = "mp4" in container.format.name
    except (OSError, FFmpegError) as error:
        raise ReportError(f"Cannot read the video {path} for the report: {error}.") from error
    if not is_mp4 or found != ("h264", "yuv420p"):
        raise ReportError(
            f"{path} is no H.264 yuv420p mp4 (found {found}), which browsers need; "
            'write it with PyAV: add_stream("libx264", pix_fmt="yuv420p").'
        )
    return data_uri("video/mp4", data)


def encode_figure(figure: Figure, name: str) -> tuple[str, EncodedImage | None]:
    """A matplotlib figure as inline SVG, or as a picture where the SVG would be too heavy.

    Args:
        figure: left as it was.
        name: unique within the page; the SVG's element ids begin with it.

    Returns:
        `(svg, None)`, or `("", picture)`.
    """
    buffer = io.StringIO()
    restore = _use_page_colours(figure)
    try:
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=False)
    finally:
        for undo in restore:
            undo()
    svg = _inline_svg(buffer.getvalue(), name)
    if len(svg) <= MAX_SVG_BYTES:
        return svg, None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return "", EncodedImage(data_uri("image/png", picture.getvalue()))


def _inline_svg(document: str, name: str) -> str:
    """The `<svg>` element alone: no prolog, no metadata, no namespaces (HTML knows them), own ids.

    It fills a phone's width; on a wide screen it stops where text of 12 points reaches that of a heading, so
    that figures of any width show text of one size.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    width_in_points = re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)
    assert width_in_points is not None  # matplotlib always writes it
    width = float(width_in_points[1]) * SVG_PIXELS_PER_POINT
    svg = svg.replace(
        "<svg", f'<svg aria-hidden="true" focusable="false" style="max-width: {width:.0f}px"', 1
    )
    return svg.replace(_INK, "currentColor").replace(_PAPER, "var(--surface)").strip()


def _use_page_colours(figure: Figure) -> list[Callable[[], None]]:
    """Paint black text and lines with the page's ink, white grounds with its paper; returns the undo steps.

    Colours chosen on purpose stay; so does text over images and meshes, whose ground is the data's.
    """
    undo: list[Callable[[], None]] = []

    def repaint(get: Callable[[], Any], put: Callable[[Any], None], old: str, new: str) -> None:
        colour = get()
        if isinstance(colour, (str, tuple)) and colour != "none" and same_color(colour, old):
            undo.append(lambda: put(colour))
            put(new)

    def ink(artist: Any) -> None:
        repaint(artist.get_color, artist.set_color, "black", _INK)

    def paper(patch: Any) -> None:
        repaint(patch.get_facecolor, patch.set_facecolor, "white", _PAPER)

    paper(figure.patch)
    for text in figure.texts:
        ink(text)
    for axes in figure.axes:
        paper(axes.patch)
        for spine in axes.spines.values():
            repaint(spine.get_edgecolor, spine.set_edgecolor, "black", _INK)
        for axis in (axes.xaxis, axes.yaxis):
            for artist in (axis.label, axis.offsetText, *axis.get_ticklabels(which="both")):
                ink(artist)
            for line in axis.get_ticklines() + axis.get_ticklines(minor=True):
                ink(line)
        for place in ("title", "_left_title", "_right_title"):  # get_title gives only their words
            ink(getattr(axes, place))
        over_data = bool(axes.images or axes.collections)
        for artist in [*axes.lines, *([] if over_data else axes.texts)]:
            ink(artist)
        legend = axes.get_legend()
        if legend is not None:
            paper(legend.get_frame())
            for text in (legend.get_title(), *legend.get_texts()):
                ink(text)
    return undo
