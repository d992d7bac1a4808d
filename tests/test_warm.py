"""A command that the server of commands runs is to whoever waits for it as one with a Python of its own."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.capabilities import REPOSITORY
from tests.conftest import scope_of

TELL = """
import os, sys
import beside
print(__name__, sys.argv[1:], input(), os.environ["GIVEN"], "PATH" in os.environ, os.getcwd(), beside.HERE)
print("an error", file=sys.stderr)
sys.exit(7)
"""
WAIT = """
import sys, time
try:
    print("waiting", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
SPAWN = """
import multiprocessing
def twice(x):
    return 2 * x
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(twice, [21]))
"""


def test_it_has_the_arguments_input_folder_and_environment_that_it_is_given(
    warm: list[str], tmp_path: Path
) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    (tmp_path / "beside.py").write_text("HERE = 'imported'")
    done = subprocess.run(
        [*warm, "python", "tell.py", "a", "b c"],
        input="typed\n", cwd=tmp_path, env={"GIVEN": "value"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"__main__ ['a', 'b c'] typed value False {tmp_path} imported\n"
    assert (done.stderr, done.returncode) == ("an error\n", 7)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_it_ends_with_a_signal_as_if_it_had_got_it(
    how: signal.Signals, status: int, warm: list[str], tmp_path: Path
) -> None:
    (tmp_path / "wait.py").write_text(WAIT)
    process = subprocess.Popen([*warm, "python", tmp_path / "wait.py"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    process.send_signal(how)
    assert process.communicate(timeout=30)[0] == ""  # its output is closed: nothing of it is left
    assert process.returncode == status


def test_processes_that_it_starts_find_its_program(warm: list[str], tmp_path: Path) -> None:
    program = tmp_path / "spawns.py"
    program.write_text(SPAWN)
    done = subprocess.run([*warm, "python", program], capture_output=True, text=True)
    assert done.stdout == "[42]\n", done.stderr


def test_the_command_says_its_own_errors(warm: list[str]) -> None:
    done = subprocess.run([*warm, "fibo", "train", "experiment=lift_bd"], capture_output=True, text=True)
    assert done.returncode == 1 and "Did you mean 'lift_bc'" in done.stderr and not done.stdout


def test_its_users_share_a_process() -> None:
    using = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if "[*warm, " in path.read_text()]
    assert len(using) > 4
    assert {scope_of(os.fspath(path.relative_to(REPOSITORY))) for path in using} == {"commands"}
