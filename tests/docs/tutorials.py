"""A tutorial as a script: the code blocks of a Markdown page, in their order.

A block with a title is a file that the reader writes; `sh` blocks are typed into one shell, which goes on
from block to block; `python` blocks are scripts that this shell runs. Blocks of other languages are shown,
not run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the file that it is (or None), its text."""

    language: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(language, title or None, text) for language, title, text in BLOCK.findall(page)]


def shell_script(page: str, folder: Path) -> str:
    """What a reader types, as one bash script that stops at a failure; scripts are laid into `folder`."""
    lines = ["set -eo pipefail"]
    for number, block in enumerate(blocks(page)):
        if block.title is not None:
            marker = f"END_OF_{number}"
            lines += [
                f"mkdir -p \"$(dirname '{block.title}')\"",
                f"cat > '{block.title}' <<'{marker}'\n{block.text}{marker}",
            ]
        elif block.language == "sh":
            lines.append(block.text)
        elif block.language == "python":
            script = folder / f"block_{number}.py"
            script.write_text(block.text, encoding="utf-8")
            lines.append(f"python '{script}'")
    return "\n".join(lines) + "\n"
