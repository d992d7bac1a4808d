"""What mkdocs.yml cannot say: pages of the site that stand elsewhere in the repository, and their links.

A hook of mkdocs (`hooks:` in mkdocs.yml). README.md, CONTRIBUTING.md and CHANGELOG.md stand where people look
for them in a repository, and links between them and docs/ are written for there; here they lead to the pages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
# File in the repository: page of the site. `docs/README.md` would be its home, which is the repository's.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/README.md": "overview.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
SOURCE = re.compile(r'(?<=src=")(?!\w+:)([^"]+)')
# Sphinx's way to say what kind of thing a docstring names.
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the moved pages."""
    for source, page in MOVED.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between files of the repository to the pages that those have become."""
    place = page.file.src_uri
    written_in = next((source for source, moved in MOVED.items() if moved == place), f"docs/{place}")

    def follow(link: re.Match[str]) -> str:
        return link_on_site(link[1], written_in, place)

    return SOURCE.sub(follow, LINK.sub(follow, markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out Sphinx's roles, which mean nothing in Markdown."""
    return ROLE.sub("", html)


def link_on_site(link: str, written_in: str, place: str) -> str:
    """Where a link leads on the site.

    Args:
        link: as written, relative to `written_in`.
        written_in: path of the file in the repository.
        place: path of its page below docs/.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), link))
    if target in MOVED:
        target = MOVED[target]
    elif target.startswith("docs/"):
        target = target.removeprefix("docs/")
        if (REPOSITORY / "docs" / target).is_dir():
            target += "/README.md"  # which a repository shows below the folder's list
    else:
        return link  # for mkdocs to complain about
    return posixpath.relpath(target, posixpath.dirname(place) or ".")
