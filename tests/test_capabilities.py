"""A test that cannot run here is counted by what it lacks, and fails where that is demanded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.capabilities import REPOSITORY

INNER = """
import pytest
from tests.capabilities import CAPABILITIES, Capability

CAPABILITIES["gpu"] = Capability("gpu", "GPU", lambda: False, "buy one")
CAPABILITIES["ray"] = Capability("ray", "Ray", lambda: False, "install it")
CAPABILITIES["warp"] = Capability("warp", "MuJoCo Warp", lambda: True, "")

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.gpu
def test_on_a_gpu(number):
    raise AssertionError("must not run")

@pytest.mark.ray
def test_on_a_cluster():
    raise AssertionError("must not run")

@pytest.mark.warp
def test_with_what_is_here():
    pass
"""


def run_inner(folder: Path, *options: str, require: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the tests above under this project's conftest, in a pytest of their own."""
    (folder / "test_inner.py").write_text(INNER)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(REPOSITORY)]
    return subprocess.run(
        [*command, "-c", str(REPOSITORY / "pyproject.toml"), str(folder / "test_inner.py"), *options],
        cwd=REPOSITORY,
        env={**os.environ, "FIBO_TEST_REQUIRE": require},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_run_ends_with_what_it_did_not_exercise(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run_inner(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not exercised: GPU (2 tests), Ray (1 test)" in done.stdout.splitlines()
    assert "1 passed, 3 skipped" in done.stdout


def test_demanded_capability_fails_instead_of_skipping(tmp_path: Path) -> None:
    done = run_inner(tmp_path, require="ray warp")
    assert done.returncode == 1
    assert "no Ray here: install it (demanded by FIBO_TEST_REQUIRE)" in done.stdout
    assert "1 passed, 2 skipped, 1 error" in done.stdout


def test_demanding_something_unknown_is_an_error(tmp_path: Path) -> None:
    done = run_inner(tmp_path, require="rays")
    assert done.returncode != 0
    assert "FIBO_TEST_REQUIRE names rays" in done.stdout + done.stderr
