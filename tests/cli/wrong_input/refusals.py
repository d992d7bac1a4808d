"""Wrong input ends in one clear message and a non-zero exit, leaves no traceback and nothing half-written."""

import sys
from pathlib import Path

import pytest

from fibo_robot.cli import main as command_line


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `fibo`; check that it refuses in the way every command must; return the message.

    Any other exception than the exit would be a traceback on the user's screen, and fails the test.
    """
    before = snapshot(Path.cwd())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fibo", *arguments])
        with pytest.raises(SystemExit) as stopped:
            command_line.main()
    shown = capsys.readouterr()
    assert stopped.value.code not in (0, None), f"exit status 0 after: {shown.out}{shown.err}"
    assert snapshot(Path.cwd()) == before, "files were left behind"
    check_message(shown.err)
    return shown.err


def check_message(shown: str) -> None:
    assert "Traceback" not in shown
    (message,) = [line for line in shown.splitlines() if line.startswith("fibo: ")]
    assert shown.strip().endswith(message), "the message comes last and is one line"
    assert 20 < len(message) < 600


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}
