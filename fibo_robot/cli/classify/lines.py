"""The JSON lines of `fibo classify`: written as results come, and gone on with after an interruption."""

import json
from pathlib import Path
from typing import Any

from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically

Row = dict[str, Any]


def finished_rows(file: Path, made_by: str) -> list[Row]:
    """The rows of an earlier run whose files were classified to the end; the file is left with these alone.

    Files that could not be read are tried again, so their rows go, and so do those of a file that was broken
    off, and a last line that was cut off.

    Args:
        file: JSON lines, as `fibo classify` writes them.
        made_by: the classifier and options of this run; see `Output`.

    Raises:
        FiboError: it holds something else, or results of another classifier or other options.
    """
    content = file.read_text(encoding="utf-8", errors="replace")
    rows = [_row(line, file) for line in content.splitlines(keepends=True) if line.endswith("\n")]
    others = sorted({row["made_by"] for row in rows} - {made_by})
    if others:
        raise FiboError(
            f"{file} holds results of {others[0]}, and these would be of {made_by}: delete it, or name "
            "another --json file."
        )
    finished = {row["path"] for row in rows if "segments" in row or _is_whole(row)}
    kept = [row for row in rows if row["path"] in finished and "error" not in row]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if text != content:
        with replace_atomically(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return kept


def _is_whole(row: Row) -> bool:
    """Whether a row is about a file as a whole, and not about a window of it."""
    return "predictions" in row and "start" not in row


def _row(line: str, file: Path) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict) or not {"path", "made_by"} <= row.keys():
        raise FiboError(f"{file} exists and holds no results of fibo classify: name another --json file.")
    return row
