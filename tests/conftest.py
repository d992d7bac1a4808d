"""Fixtures shared by all tests, and what happens where a machine lacks what a test needs."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.capabilities import CAPABILITIES, REPOSITORY, SAMPLE_DATA, required
from tests.hub.server import hub

__all__ = ["REPOSITORY", "hub"]

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the command does, before anything is computed

# A shell that starts the tests in the background has SIGINT ignored, and with it the commands that tests
# interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Fixtures whose users need a capability.
FIXTURES = {"shared_data": "data", "demonstrations": "sim"}
LACKS = "lacks"  # the user property under which a skipped test's report names the capability


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample data (see `SAMPLE_DATA`); tests that use it bear the mark `data`."""
    return SAMPLE_DATA


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    """Every capability is a mark."""
    required()  # an unknown name must not pass unnoticed
    for capability in CAPABILITIES.values():
        config.addinivalue_line("markers", f"{capability.mark}: needs {capability.name}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Who uses a fixture needs what it needs; where several processes share the tests, long files come first.

    So none of them is still running when all the others have ended.
    """
    for item in items:
        for fixture in FIXTURES.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(FIXTURES[fixture])
    if hasattr(config, "workerinput"):  # one of pytest-xdist's processes
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])  # stable: a file's tests stay together, in their order


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
