"""The documentation as a site: every link leads somewhere, every public name is in it, all by itself."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.capabilities import REPOSITORY

pytestmark = pytest.mark.docs

PACKAGES = ("attention", "encoders", "video", "policies", "envs", "envs.warp", "statistics", "reporting")


def build(config: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(target)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    built = build(REPOSITORY / "mkdocs.yml", target)
    assert built.returncode == 0, built.stderr[-3000:]
    return target


class Requests(HTMLParser):
    """What a browser fetches for a page without a click, and the anchors that it offers."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag in ("script", "img", "iframe", "source", "video") and "src" in values:
            self.fetched.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.fetched.append(values["href"])


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import griffe

    anchors: set[str] = set()
    for page in (site / "reference").glob("*.html"):
        anchors |= Requests(page).anchors
    # Read, not imported; constants and names of types bear no docstring of their own.
    found = griffe.load("fibo_robot", search_paths=[REPOSITORY], resolve_aliases=True)
    public = [
        member.path
        for package in PACKAGES
        for member in found[package].members.values()
        if member.is_exported and (member.is_class or member.is_function)
    ]
    assert len(public) > 50
    assert [path for path in public if path not in anchors] == []


def test_a_reader_of_the_site_asks_no_other_server(site: Path) -> None:
    pages = [Requests(page) for page in site.rglob("*.html")]
    fetched = [url for page in pages for url in page.fetched]
    assert len(pages) > 25 and len(fetched) > 50
    assert [url for url in fetched if re.match(r"(\w+:)?//", url)] == []
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert styles and not any(re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style) for style in styles)


def test_files_of_the_repository_are_pages_and_link_to_pages(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="installation.html"' in home and 'href="contributing.html"' in home
    assert 'href="index.html"' in (site / "overview.html").read_text(encoding="utf-8")
    reference = (site / "reference" / "envs.html").read_text(encoding="utf-8")
    assert ":meth:" not in reference and ":class:" not in reference


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("other.md#here", None),
        ("other.md#there", "does not contain an anchor '#there'"),
        ("another.md", "the target is not found"),
        ("/other.md", "absolute link"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, link: str, complaint: str | None) -> None:
    ours = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    kept = {key: ours[key] for key in ("site_name", "strict", "validation")}
    config = tmp_path / "mkdocs.yml"
    config.write_text(yaml.safe_dump({**kept, "theme": "mkdocs", "plugins": []}))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"[link]({link})\n")
    (tmp_path / "docs" / "other.md").write_text("# Here\n")
    built = build(config, tmp_path / "site")
    if complaint is None:
        assert built.returncode == 0, built.stderr
    else:
        assert built.returncode == 1 and complaint in built.stderr
