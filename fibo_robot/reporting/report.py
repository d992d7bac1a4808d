"""The report builder: sections of blocks, rendered by one template into one HTML file.

Everything given is checked and embedded when it is added, so a wrong picture stops the caller there and
`save` only writes. The page carries a content security policy that forbids any request to the network.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from matplotlib.figure import Figure

from fibo_robot import __version__
from fibo_robot.files import replace_atomically
from fibo_robot.reporting.media import EncodedImage, ReportError, encode_figure, encode_image, encode_video


@dataclass(frozen=True)
class KeyNumber:
    """One number on a card: `value` large, `label` above it, `detail` (an interval, a control) below."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file, or a uint8 array `(H, W)` or `(H, W, 3)`, with the caption that also describes it."""

    image: Path | str | np.ndarray
    caption: str


@dataclass(frozen=True)
class VideoClip:
    """An H.264 yuv420p mp4 with its caption; `success` adds a badge, None leaves it out."""

    path: Path | str
    caption: str
    success: bool | None = None


@dataclass(frozen=True)
class _Cell:
    text: str
    is_number: bool


@dataclass(frozen=True)
class _Block:
    """What the template draws: `kind` names its macro, `content` holds what that macro reads."""

    kind: str
    content: Mapping[str, Any]


@dataclass
class Section:
    """One titled part of the page; each method appends a block and returns the section."""

    title: str
    lead: str
    anchor: str
    blocks: list[_Block] = field(default_factory=list)

    def text(self, text: str) -> "Section":
        """Plain text; an empty line begins a new paragraph. Nothing in it is read as HTML."""
        return self._add("text", paragraphs=_paragraphs(text))

    def note(self, text: str, kind: Literal["info", "warning"] = "info") -> "Section":
        """A remark that must not be overlooked, set apart from the text."""
        return self._add("note", paragraphs=_paragraphs(text), note_kind=kind)

    def key_numbers(self, numbers: Sequence[KeyNumber]) -> "Section":
        """The few numbers a reader came for, as cards."""
        return self._add("key_numbers", numbers=list(numbers))

    def table(
        self,
        rows: Sequence[Mapping[str, object]],
        columns: Sequence[str] | Mapping[str, str] | None = None,
        caption: str = "",
        collapsed: bool = False,
    ) -> "Section":
        """A table that scrolls inside itself on a narrow screen.

        Args:
            rows: one mapping per row; a missing key or None shows as a dash. Floats get four significant
                digits, other values their own text.
            columns: keys in order, or a mapping from key to heading; by default the first row's keys.
            caption: what the table holds.
            collapsed: fold it away behind its caption, for long tables.
        """
        if columns is None:
            columns = list(rows[0]) if rows else []
        headings = columns if isinstance(columns, Mapping) else {key: key for key in columns}
        cells = [[_cell(row.get(key)) for key in headings] for row in rows]
        is_number = [all(row[i].is_number for row in cells) for i in range(len(headings))]
        return self._add(
            "table",
            headings=list(zip(headings.values(), is_number)),
            rows=[[(cell.text, number) for cell, number in zip(row, is_number)] for row in cells],
            caption=caption,
            collapsed=collapsed,
        )

    def figure(self, figure: Figure, caption: str, collapsed: bool = False) -> "Section":
        """A matplotlib figure. Draw it with `matplotlib.rc_context(FIGURE_STYLE)` to match the page.

        Args:
            figure: left as it is.
            caption: what it shows; also read aloud in its place.
            collapsed: fold it away behind its caption.
        """
        svg, picture = encode_figure(figure, f"{self.anchor}-{len(self.blocks)}")
        return self._add("figure", svg=svg, picture=picture, caption=caption, collapsed=collapsed)

    def image(self, image: Path | str | np.ndarray, caption: str) -> "Section":
        """One picture; small ones (camera images, masks) are shown enlarged, pixel by pixel."""
        return self.images([Picture(image, caption)])

    def images(self, pictures: Sequence[Picture], caption: str = "", collapsed: bool = False) -> "Section":
        """Pictures side by side, as many in a row as fit; `collapsed` folds them away behind `caption`."""
        encoded: list[tuple[EncodedImage, str]] = [(encode_image(p.image), p.caption) for p in pictures]
        return self._add("images", pictures=encoded, caption=caption, collapsed=collapsed)

    def videos(self, clips: Sequence[VideoClip]) -> "Section":
        """Videos side by side, each with a badge for success or failure where that is known.

        Raises:
            ReportError: a file is missing or browsers cannot play it.
        """
        return self._add("videos", clips=[(encode_video(c.path), c.caption, c.success) for c in clips])

    def config(self, text: str, title: str = "Configuration") -> "Section":
        """Preformatted text such as YAML, folded away behind `title`."""
        return self._add("config", text=text.strip("\n"), title=title)

    def _add(self, kind: str, **content: object) -> "Section":
        self.blocks.append(_Block(kind, content))
        return self


class Report:
    """A page in the making: `section` opens a part, `save` writes the file."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        """Begin a page headed by `title`; `subtitle` says in a sentence what ran."""
        self.title = title
        self.subtitle = subtitle
        self.sections: list[Section] = []

    def section(self, title: str, lead: str = "") -> Section:
        """Open the next section; `lead` tells what it shows before its first block."""
        section = Section(title, lead, anchor=f"section-{len(self.sections) + 1}")
        self.sections.append(section)
        return section

    def to_html(self) -> str:
        """The whole page."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("fibo_robot.reporting", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html.j2").render(
            title=self.title,
            subtitle=self.subtitle,
            sections=self.sections,
            made_at=datetime.now().astimezone(),
            version=__version__,
        )

    def save(self, path: Path | str) -> Path:
        """Write the page to `path` atomically and return it.

        Raises:
            ReportError: the file cannot be written.
        """
        path = Path(path)
        try:
            with replace_atomically(path) as temporary:
                temporary.write_text(self.to_html(), encoding="utf-8")
        except OSError as error:
            raise ReportError(f"Cannot write the report to {path}: {error.strerror or error}.") from error
        return path


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _cell(value: object) -> _Cell:
    if value is None:
        return _Cell("–", is_number=True)
    if isinstance(value, bool | np.bool_):
        return _Cell("yes" if value else "no", is_number=False)
    if isinstance(value, float | np.floating):
        return _Cell(f"{value:.4g}" if math.isfinite(value) else "–", is_number=True)
    return _Cell(str(value), is_number=isinstance(value, int | np.integer))
