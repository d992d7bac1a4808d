"""Wrong input ends in one clear message and a non-zero exit, leaves no traceback and nothing half-written."""

import sys
from pathlib import Path

import pytest

from fibo_robot.cli import main as command_line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `fibo` here; returns exit status, stdout and stderr. A traceback would fail the test."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fibo", *arguments])
        try:
            command_line.main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `fibo`; check that it refuses in the way every command must; return the message."""
    before = snapshot(Path.cwd())
    status, out, err = run(capsys, *arguments)
    assert status != 0, f"exit status 0 after: {out}{err}"
    assert snapshot(Path.cwd()) == before, "files were left behind"
    check_message(err)
    return err


def check_message(shown: str) -> None:
    assert "Traceback" not in shown
    (message,) = [line for line in shown.splitlines() if line.startswith("fibo: ")]
    assert shown.strip().endswith(message), "the message comes last and is one line"
    assert 20 < len(message) < 600


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}
