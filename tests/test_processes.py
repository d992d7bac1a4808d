"""Worker processes do not outlive the process that started them, and a folder has one writer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fibo_robot.processes import LOCK_FILE, BusyError, only_writer
from tests.processes import another_writer, is_running

PARENT = """
import multiprocessing, os, signal, time
from fibo_robot.processes import exit_with_parent

def work(queue):
    exit_with_parent()
    queue.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    context.Process(target=work, args=(queue,)).start()
    print(queue.get(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, text=True, timeout=60)
    worker = int(parent.stdout)
    until = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(worker)


def test_a_second_writer_is_refused_by_name_and_comes_after_the_first(tmp_path):
    with another_writer(tmp_path / "run") as first:
        with (
            pytest.raises(BusyError, match=f"Process {first.pid} is writing into {tmp_path / 'run'}"),
            only_writer(tmp_path / "run"),
        ):
            pytest.fail("there were two")
        first.communicate("")
        assert not (tmp_path / "run" / LOCK_FILE).exists()
        with only_writer(tmp_path / "run"):
            pass
    assert not any((tmp_path / "run").iterdir())


def test_a_killed_writer_holds_nothing_though_a_child_of_it_lives(tmp_path):
    with another_writer(tmp_path, with_child=True) as first:
        first.kill()
        first.wait()
        assert (tmp_path / LOCK_FILE).read_text() == f"{first.pid}\n"
        with only_writer(tmp_path):
            assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_a_file_that_its_holder_removed_in_between_is_not_the_lock(tmp_path, monkeypatch):
    opened = []

    def remove_first(path: Path, *arguments: int) -> int:
        descriptor = os_open(path, *arguments)
        opened.append(descriptor)
        if len(opened) == 1:
            path.unlink()
        return descriptor

    os_open = os.open
    monkeypatch.setattr(os, "open", remove_first)
    with only_writer(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
