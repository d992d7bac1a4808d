"""Progress bars: nothing where stdout is no terminal; else done, total and the successes so far."""

import io
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fibo_robot import progress


class Terminal(io.StringIO):
    """Standard output as a terminal."""

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard output a terminal; called by the test itself, as pytest changes it before each phase."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stdout", stream)
    import rich

    monkeypatch.setattr(rich, "_console", None)  # rich keeps its first console
    return stream


def lazily() -> Iterator[int]:
    yield from (1, 2, 3)


def use_every_bar() -> None:
    assert list(progress.track([1, 2, 3], "looking")) == [1, 2, 3]
    assert list(progress.track(lazily(), "reading", total=3)) == [1, 2, 3]
    with progress.progress_bar("recording") as update:
        update(1, 4)
        update(4, 4)
    with progress.counter("compiling", after=60.0) as count:
        count("kernels")
    with progress.trials_bar("rolling out", 7, counted=2, successes=1, done=3) as add:
        for success in (True, False, None):
            add(success)


def test_nothing_is_written_where_stdout_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    use_every_bar()
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    use_every_bar()
    text = terminal.getvalue()
    counted = "compiling: 1 done, the last kernels"
    for shown in ("looking", "reading", "recording", "4/4", counted, "rolling out", "6/7", "2 of 4 solved"):
        assert shown in text


def test_a_bar_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress.trials_bar("rolling out", 2, enabled=False) as add:
        add(True)
    assert terminal.getvalue() == ""


def test_what_is_quick_and_counts_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with progress.counter("compiling", after=60.0):
        pass
    assert terminal.getvalue() == ""
    with progress.counter("compiling", after=0.0):
        time.sleep(0.3)
    assert "compiling …" in terminal.getvalue()


def test_importing_it_imports_no_rich() -> None:
    code = "import sys, fibo_robot.progress; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
