"""Fixtures shared by all tests, and what happens where a machine lacks what a test needs."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.capabilities import CAPABILITIES, REPOSITORY, SAMPLE_DATA, required
from tests.hub.server import hub

__all__ = ["REPOSITORY", "hub"]

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the command does, before anything is computed

# A shell that starts the tests in the background has SIGINT ignored, and with it the commands that tests
# interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files, by parts of their paths, that are one process's where several share the tests: what the first of them
# waits for, the compilation of Warp's kernels or the server of commands, is there for the others.
TOGETHER = {
    "warp": ("warp",),
    "commands": (
        "test_warm.py",
        "test_tutorials.py",
        "test_distributed.py",
        "test_robomimic_checkpoint.py",
        "policies/test_sweep.py",
        "policies/test_training.py",
        "inference/test_results_file.py",
    ),
}
# Fixtures whose users need a capability.
FIXTURES = {"shared_data": "data", "demonstrations": "sim"}
LACKS = "lacks"  # the user property under which a skipped test's report names the capability


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample data (see `SAMPLE_DATA`); tests that use it bear the mark `data`."""
    return SAMPLE_DATA


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What to put before `fibo …` and `python …` for a process that has imported already (tests/warm.py)."""
    address = str(tmp_path_factory.mktemp("warm") / "socket")
    command = [sys.executable, "-m", "tests.warm", address, "serve"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE) as server:
        while not Path(address).exists():
            assert server.poll() is None, "the server of commands ended"
            time.sleep(0.01)
        yield [sys.executable, "-S", str(REPOSITORY / "tests" / "warm.py"), address]
    # It has ended with its input, which is closed here, or with this process.


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    if "torch" in sys.modules:  # else it is imported by the test, with a seed that is always the same
        sys.modules["torch"].manual_seed(0)


def scope_of(test: str) -> str:
    """What one process runs as a whole: the file of a test, by its id, or the name of a group of files."""
    file = test.partition("::")[0]
    return next((name for name, parts in TOGETHER.items() if any(part in file for part in parts)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, of scopes."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Every capability is a mark."""
    required()  # an unknown name must not pass unnoticed
    for capability in CAPABILITIES.values():
        config.addinivalue_line("markers", f"{capability.mark}: needs {capability.name}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Who uses a fixture needs what it needs; long scopes come first where several processes share the tests.

    So none of them is still running when all the others have ended.
    """
    for item in items:
        for fixture in FIXTURES.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(FIXTURES[fixture])
    if hasattr(config, "workerinput"):  # one of pytest-xdist's processes
        slow = Counter(scope_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[scope_of(item.nodeid)])  # stable: files keep their order


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot do, or fail where that is demanded."""
    for mark, capability in CAPABILITIES.items():
        if item.get_closest_marker(mark) is None or capability.is_here():
            continue
        reason = f"no {capability.name} here: {capability.how}"
        if mark in required():
            pytest.fail(f"{reason} (demanded by FIBO_TEST_REQUIRE)", pytrace=False)
        item.user_properties.append((LACKS, capability.name))
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which capabilities this run did not exercise."""
    lacking = Counter(
        value
        for report in terminalreporter.stats.get("skipped", [])
        for name, value in getattr(report, "user_properties", [])
        if name == LACKS
    )
    if lacking:
        parts = [f"{name} ({count} test{'s' * (count > 1)})" for name, count in lacking.most_common()]
        terminalreporter.write_line(f"not exercised: {', '.join(parts)}", yellow=True)
