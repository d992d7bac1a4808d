"""Stages of the quickstart, run side by side: those of one lane follow one another, lanes do not wait.

A small training scales badly to a second core, so two of them at a time end sooner than one after the other.
Every stage is a `fibo` command in a process of its own; its output is shown line by line, behind its lane's
name.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import typer

from fibo_robot.durations import in_words
from fibo_robot.errors import FiboError
from fibo_robot.files import write_json

_SILENCE = 30  # seconds after which the stages under way are named again
_INTERRUPTED = 130  # exit status of a command that Ctrl-C ended


@dataclass(frozen=True)
class Stage:
    """One command of the quickstart.

    Attributes:
        lane: stages of one lane need each other's results, and run in their order.
        title: what it does, in a few words.
        purpose: what for, in a sentence.
        arguments: the `fibo` command line.
        result: the file that its success leaves behind.
        expected: seconds that it took on two cores without a GPU, beside the other lane.
    """

    lane: str
    title: str
    purpose: str
    arguments: tuple[str, ...]
    result: Path
    expected: float

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        return "fibo " + shlex.join(self.arguments)


@dataclass(frozen=True)
class _Ended:
    """What a lane reports of a stage; None for the stage: the lane has come to its end."""

    stage: Stage | None
    status: int = 0
    seconds: float = 0.0


def longest_lane(seconds: list[tuple[str, float]]) -> float:
    """How long lanes of these stages take side by side."""
    lanes = dict.fromkeys((lane for lane, _ in seconds), 0.0)
    for lane, taken in seconds:
        lanes[lane] += taken
    return max(lanes.values(), default=0.0)


def run_stages(plan: list[Stage], output: Path) -> list[dict[str, object]]:
    """Run what is not done yet; returns lane, title, command and seconds of every stage.

    Raises:
        FiboError: a stage failed; what the others have done is kept.
    """
    record = output / "stages.json"
    finished = {row["command"]: row for row in json.loads(record.read_text())} if record.exists() else {}
    done = [stage for stage in plan if stage.command in finished and stage.result.exists()]
    for stage in done:
        typer.echo(f"{stage.title}: already done")
    todo = [stage for stage in plan if stage not in done]
    if todo:
        total = in_words(longest_lane([(stage.lane, stage.expected) for stage in todo]))
        typer.echo(f"{len(todo)} of {len(plan)} stages to run, about {total} on two cores without a GPU.")
    lanes = _Lanes(todo)
    try:
        for ended in lanes.ends():
            assert ended.stage is not None
            if ended.status == _INTERRUPTED:
                raise KeyboardInterrupt
            if ended.status or not ended.stage.result.exists():
                raise FiboError(
                    f"The quickstart stopped at stage {plan.index(ended.stage) + 1} "
                    f"({ended.stage.title.lower()}): its message is above. Mend that and run the same "
                    "command again; finished stages are kept."
                )
            lanes.say(ended.stage, f"took {in_words(ended.seconds)}")
            finished[ended.stage.command] = {
                "lane": ended.stage.lane,
                "title": ended.stage.title,
                "command": ended.stage.command,
                "seconds": ended.seconds,
            }
            write_json(record, list(finished.values()))
    finally:
        lanes.stop()
    return [finished[stage.command] for stage in plan]


class _Lanes:
    """Lanes under way: a thread each, which starts one command after the other."""

    def __init__(self, stages: list[Stage]) -> None:
        self._queue: Queue[_Ended | tuple[Stage, str]] = Queue()
        self._stopped = False
        self._processes: dict[Stage, tuple[subprocess.Popen[str], float]] = {}
        lanes = dict.fromkeys(stage.lane for stage in stages)
        self._width = max(map(len, lanes), default=0)
        # Two lanes with as many threads as there are cores, each, would wait for one another.
        threads = max(1, len(os.sched_getaffinity(0)) // max(1, len(lanes)))
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        self._threads = [
            Thread(target=self._run, args=([stage for stage in stages if stage.lane == lane],))
            for lane in lanes
        ]

    def ends(self) -> Iterator[_Ended]:
        """Start all lanes and show what they say; yields each stage that ends, until all have."""
        for thread in self._threads:
            thread.start()
        running = len(self._threads)
        while running:
            try:
                event = self._queue.get(timeout=_SILENCE)
            except Empty:
                self._name_what_runs()
                continue
            if not isinstance(event, _Ended):
                self.say(*event)
            elif event.stage is None:
                running -= 1
            else:
                yield event

    def say(self, stage: Stage, line: str) -> None:
        """Show a line of a stage, behind its lane's name."""
        typer.echo(f"{stage.lane:{self._width}} | {line}")

    def stop(self) -> None:
        """Interrupt what still runs, as Ctrl-C would, and wait for it: every command keeps what it has."""
        self._stopped = True
        for process, _ in list(self._processes.values()):
            process.send_signal(signal.SIGINT)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, stages: list[Stage]) -> None:
        for stage in stages:
            if self._stopped or not self._run_stage(stage):
                break
        self._queue.put(_Ended(None))

    def _run_stage(self, stage: Stage) -> bool:
        lines = ("", f"{stage.title} (about {in_words(stage.expected)})", stage.purpose, f"$ {stage.command}")
        for line in lines:
            self._queue.put((stage, line))
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "fibo_robot.cli", *stage.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )
        self._processes[stage] = process, began
        assert process.stdout is not None
        for line in process.stdout:
            self._queue.put((stage, line.rstrip()))
        status = process.wait()
        del self._processes[stage]
        self._queue.put(_Ended(stage, status, time.monotonic() - began))
        return status == 0

    def _name_what_runs(self) -> None:
        for stage, (_, began) in list(self._processes.items()):
            so_far = in_words(time.monotonic() - began)
            self.say(stage, f"... {so_far} of about {in_words(stage.expected)}")
