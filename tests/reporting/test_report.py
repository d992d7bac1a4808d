"""The report file: what is given is shown as given, all of it inside the file, and wrong media is refused."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image

from fibo_robot.reporting import FIGURE_STYLE, KeyNumber, Picture, Report, ReportError, VideoClip
from fibo_robot.reporting.media import encode_figure
from tests.video.clips import write_video

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The parsed page: every element with its attributes, its text, and whether tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of each such element; one without value is empty."""
        return [
            {key: value or "" for key, value in attributes.items()}
            for name, attributes in self.elements
            if name == tag
        ]


def write_film(path: Path, codec: str = "libx264", pixel_format: str = "yuv420p") -> Path:
    pictures = np.zeros((3, 64, 64, 3), np.uint8)
    return write_video(path, pictures, codec=codec, pixel_format=pixel_format, rate=20)


def line_figure() -> Figure:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure()
        axes = figure.add_subplot(xlabel="epoch", title="Loss")
        axes.plot([1, 2, 3], label="training")
        axes.legend()
    return figure


def full_report(folder: Path) -> Report:
    report = Report("Title", "Subtitle")
    section = report.section("Everything", "Lead")
    section.text("First.\n\nSecond.").note("Careful.", "warning")
    section.key_numbers([KeyNumber("Success rate", "85 %", "17 of 20")])
    section.table([{"seed": 1, "return": 0.123456}])
    section.figure(line_figure(), "A figure").image(np.zeros((8, 8), np.uint8), "An image")
    section.videos([VideoClip(write_film(folder / "a.mp4"), "A video", success=False)])
    section.config("a: 1")
    return report


def test_markup_in_any_text_is_shown_not_obeyed(tmp_path: Path) -> None:
    evil = """<script>alert(1)</script>"'&<img src=x onerror=alert(1)>"""
    report = Report(evil, evil)
    section = report.section(evil, evil)
    section.text(evil).note(evil).config(evil, evil).key_numbers([KeyNumber(evil, evil, evil)])
    section.table([{evil: evil}], caption=evil).table([{evil: evil}], {evil: evil}, evil, collapsed=True)
    section.figure(line_figure(), evil).image(np.zeros((8, 8), np.uint8), evil)
    section.figure(line_figure(), evil, collapsed=True)
    section.images([Picture(np.zeros((8, 8), np.uint8), evil)], evil, collapsed=True)
    section.videos([VideoClip(write_film(tmp_path / "a.mp4"), evil, success=True)])
    page = Page(report.to_html())
    assert page.all("script") == []
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert [image["src"][:15] for image in page.all("img")] == ["data:image/png;"] * 2
    assert page.text.count(evil) >= 18


def test_page_loads_nothing_from_outside(tmp_path: Path) -> None:
    html = full_report(tmp_path).to_html()
    page = Page(html)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    outside_data = re.sub(r"data:[\w/+-]*;base64,[\w+/=]*", "", html)
    assert "//" not in re.sub(r"/\*.*?\*/", "", outside_data)
    assert not re.search(r"url\((?!#)|@import", outside_data)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")


def test_embedded_video_is_the_file_itself(tmp_path: Path) -> None:
    report = full_report(tmp_path)
    video = Page(report.to_html()).all("video")[0]
    assert base64.b64decode(video["src"].split(",")[1]) == (tmp_path / "a.mp4").read_bytes()


def test_embedded_array_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    report = Report("Title")
    report.section("Section").images([Picture(pixels, "frame")])
    image = Page(report.to_html()).all("img")[0]
    decoded = np.asarray(Image.open(BytesIO(base64.b64decode(image["src"].split(",")[1]))))
    np.testing.assert_array_equal(decoded, pixels)
    assert image["alt"] == "frame"
    assert image["width"] == "336"  # 84 pixels enlarged by a whole factor


def test_image_file_is_embedded_unchanged(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.jpg")
    report = Report("Title")
    report.section("Section").image(tmp_path / "a.jpg", "a")
    source = Page(report.to_html()).all("img")[0]["src"]
    assert source == "data:image/jpeg;base64," + base64.b64encode((tmp_path / "a.jpg").read_bytes()).decode()


def test_page_adds_little_to_its_media(tmp_path: Path) -> None:
    report = Report("Title")
    report.section("Section").text("Hello")
    assert len(report.to_html()) < 12_000
    assert len(full_report(tmp_path).to_html()) < 60_000


def test_success_and_failure_are_told_in_words(tmp_path: Path) -> None:
    video = write_film(tmp_path / "a.mp4")
    report = Report("Title")
    clips = [VideoClip(video, "one", True), VideoClip(video, "two", False), VideoClip(video, "three")]
    report.section("Section").videos(clips)
    assert "success one failure two three" in Page(report.to_html()).text


def test_table_values() -> None:
    rows = [
        {"seed": 7, "return": 0.123456, "won": True, "note": None},
        {"seed": np.int64(8), "return": float("nan"), "won": False},
    ]
    report = Report("Title")
    report.section("Section").table(rows, {"seed": "Seed", "won": "Won", "return": "Return", "note": "Note"})
    page = Page(report.to_html())
    assert "Seed Won Return Note 7 yes 0.1235 – 8 no – –" in page.text
    assert [cell.get("class") for cell in page.all("td")] == ["number", None, "number", "number"] * 2


def test_empty_table_keeps_its_headings() -> None:
    report = Report("Title")
    report.section("Section").table([], ["seed", "success"], caption="Failures")
    assert "Failures seed success" in Page(report.to_html()).text


def test_figure_is_valid_svg_with_the_page_colours_and_leaves_the_figure_alone() -> None:
    figure = line_figure()
    axes = figure.axes[0]
    axes.axhline(1, color="black")
    svg, picture = encode_figure(figure, "figure-1")
    ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert picture is None
    assert "currentColor" in svg and "var(--surface)" in svg
    assert "#010203" not in svg and "#fdfcfb" not in svg
    assert axes.xaxis.label.get_color() == "black"
    assert axes.lines[-1].get_color() == "black"
    assert same_color(figure.patch.get_facecolor(), "white")


def test_chosen_colours_and_labels_over_a_heat_map_stay() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.imshow(np.zeros((3, 3)))
    axes.text(1, 1, "3", color="#ffffff", gid="value")
    axes.set_xlabel("x", color="#aa0000")
    svg, _ = encode_figure(figure, "f")
    assert "#ffffff" in svg and "#aa0000" in svg


def test_two_figures_share_no_ids() -> None:
    report = Report("Title")
    report.section("One").figure(line_figure(), "a").figure(line_figure(), "b")
    html = report.to_html()
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referenced = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", html))
    assert len(referenced) > 4
    assert referenced <= set(ids)


def test_heavy_figure_becomes_a_picture() -> None:
    figure = Figure()
    points = np.random.default_rng(0).normal(size=(2, 30_000))
    figure.add_subplot().plot(*points, ".")
    svg, picture = encode_figure(figure, "f")
    assert svg == ""
    assert picture is not None and picture.uri.startswith("data:image/png;base64,")


@pytest.mark.parametrize(("codec", "pixel_format"), [("mpeg4", "yuv420p"), ("libx264", "yuv444p")])
def test_video_that_browsers_cannot_play_is_refused(tmp_path: Path, codec: str, pixel_format: str) -> None:
    video = write_film(tmp_path / "a.mp4", codec, pixel_format)
    with pytest.raises(ReportError, match=r"H\.264 yuv420p"):
        Report("Title").section("Section").videos([VideoClip(video, "a")])


@pytest.mark.parametrize("content", [None, b"", b"no video at all"])
def test_missing_or_broken_video_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReportError, match=r"broken\.mp4"):
        Report("Title").section("Section").videos([VideoClip(path, "a")])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_array_that_is_no_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ReportError, match="uint8 of shape"):
        Report("Title").section("Section").image(image, "a")


def test_missing_picture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"nowhere\.png"):
        Report("Title").section("Section").image(tmp_path / "nowhere.png", "a")


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = full_report(tmp_path)
    target = tmp_path / "out" / "report.html"
    assert report.save(target) == target
    before = target.read_bytes()

    def fails(self: Report) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "to_html", fails)
    with pytest.raises(ReportError, match="No space left on device"):
        report.save(target)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
