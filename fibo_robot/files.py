"""Writing files so that a reader never meets half of one: write beside the target, then rename."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replace_atomically(target: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it takes the target's place, on error it goes.

    The temporary name keeps the target's suffix (writers choose a format by it). It works for a file
    or a directory; an existing directory at `target` is replaced as a whole.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and target.exists():
            retired = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
            os.rename(target, retired)
            os.rename(temporary, target)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_json(target: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `target`, atomically; NaN is refused (it is not JSON)."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with replace_atomically(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
