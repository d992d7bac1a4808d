"""Other processes: one that writes into a folder or a file meanwhile, and whether one still runs."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = """
import os, sys
from fibo_robot import processes

with getattr(processes, sys.argv[1])(sys.argv[2]):
    if sys.argv[3:] and os.fork() == 0:  # as a loader's worker is
        sys.stdin.read()
        os._exit(0)
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_writer(
    path: Path, *, with_child: bool = False, lock: str = "only_writer"
) -> Iterator[subprocess.Popen]:
    """A process that holds `path`, by this function, until its input is closed; its child lives as long."""
    command = [sys.executable, "-c", PROGRAM, lock, str(path), *(["child"] if with_child else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
