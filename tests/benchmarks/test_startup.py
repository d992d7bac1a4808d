"""What starting a command takes: waiting is wall time alone, work is CPU time too, also in children."""

import sys

import pytest

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.startup import measure_commands

WORK = "import time\nwhile time.process_time() < 0.6: pass"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORK!r}])"


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def test_waiting_costs_time_and_work_of_children_costs_processor_time() -> None:
    commands = {"waits": python("import time; time.sleep(0.8)"), "works": python(CHILD)}
    waits, works = measure_commands(commands, rounds=2)
    assert (waits.case, works.case) == ("waits", "works")
    assert waits.seconds >= 0.8 and works.cpu_seconds >= 0.6
    assert waits.cpu_seconds < works.cpu_seconds
    assert waits.spread[0] <= waits.seconds <= waits.spread[1]


def test_a_command_that_fails_is_told_with_its_reason_unless_it_may() -> None:
    command = python("import sys; sys.exit('no such thing')")
    with pytest.raises(BenchmarkError, match="broken failed: no such thing"):
        measure_commands({"broken": command}, rounds=1)
    (row,) = measure_commands({"broken": command}, rounds=1, may_fail=["broken"])
    assert row.seconds > 0
