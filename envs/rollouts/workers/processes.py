"""Worker processes on this machine: started fresh (spawn), watched, and replaced when they die or hang.

Commands and replies are small and go through a pipe; observations lie in memory shared with the engine.
Memory is inherited, not named, so that nothing stays behind when the main process is killed; a worker whose
pipe closes ends by itself. Workers use one thread each for numerics: W workers are meant to fill W cores.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import numpy as np

from fibo_robot.envs.rollouts.workers.episode_runner import (
    Command,
    EpisodeRunner,
    Failed,
    Observation,
    Progress,
    Reply,
    Setup,
    failure,
)

# LP_NUM_THREADS=0 lets llvmpipe draw in the calling thread.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}
# A killed process is gone at once; this only bounds the wait for the kernel to say so.
_REAP_SECONDS = 10.0


class Workers(Protocol):
    """What the scheduler needs of a set of workers, wherever they run; a slot holds one worker at a time."""

    def start(self, slot: int) -> None:
        """Start a worker in `slot`, ending the one that is there; it replies `Started` when ready."""
        ...

    def send(self, slot: int, command: Command) -> None:
        """Send a command to the worker in `slot`; it gives one reply."""
        ...

    def stop(self, slot: int) -> None:
        """End the worker in `slot` at once, whatever it is doing."""
        ...

    def wait(self, timeout: float | None) -> list[tuple[int, Reply]]:
        """Replies that have come, waiting up to `timeout` seconds for the first; a death is `Failed`."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class LocalWorkers:
    """Workers as processes of this machine."""

    def __init__(self, setup: Setup, count: int) -> None:
        self._setup = setup
        self._context = multiprocessing.get_context("spawn")
        self._bytes = sum(_size(shape, dtype) for shape, dtype in setup.layout.values())
        self._processes: list[BaseProcess | None] = [None] * count
        # Of Connection or None; what Pipe() returns has another type on every system.
        self._pipes: list[Any] = [None] * count
        self._views: list[Observation] = [{} for _ in range(count)]

    def start(self, slot: int) -> None:
        """See :class:`Workers`."""
        self.stop(slot)
        memory = self._context.RawArray("B", self._bytes)
        self._views[slot] = _views(memory, self._setup)
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(there, memory, self._setup), name=f"fibo-worker-{slot}", daemon=True
        )
        with _environment(ONE_THREAD):
            process.start()
        there.close()
        self._processes[slot], self._pipes[slot] = process, here

    def send(self, slot: int, command: Command) -> None:
        """See :class:`Workers`."""
        pipe = self._pipes[slot]
        assert pipe is not None, "send before start"
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: wait() reports that
            pipe.send(command)

    def wait(self, timeout: float | None) -> list[tuple[int, Reply]]:
        """See :class:`Workers`."""
        pipes = [pipe for pipe in self._pipes if pipe is not None]
        ready = connection.wait(pipes, timeout)
        replies: list[tuple[int, Reply]] = []
        for slot, pipe in enumerate(self._pipes):
            if pipe is None or pipe not in ready:
                continue
            try:
                reply: Reply = pipe.recv()
            except (EOFError, ConnectionResetError):
                reply = Failed(self._cause_of_death(slot))
            if isinstance(reply, Failed):
                self.stop(slot)
            elif isinstance(reply, Progress) and reply.episode is None:
                reply.observation = {key: view.copy() for key, view in self._views[slot].items()}
            replies.append((slot, reply))
        return replies

    def close(self) -> None:
        """See :class:`Workers`."""
        for slot in range(len(self._processes)):
            self.stop(slot)

    def pid(self, slot: int) -> int | None:
        """Process id of the worker in `slot`."""
        process = self._processes[slot]
        return None if process is None else process.pid

    def _cause_of_death(self, slot: int) -> str:
        process = self._processes[slot]
        assert process is not None, "a reply without a process"
        process.join(_REAP_SECONDS)
        code = process.exitcode
        if code == -signal.SIGKILL:
            return "The worker process was killed (SIGKILL; the kernel does this when memory runs out)."
        if code is not None and code < 0:
            return f"The worker process died of signal {-code} ({signal.strsignal(-code)})."
        return f"The worker process ended unexpectedly with status {code}."

    def stop(self, slot: int) -> None:
        """See :class:`Workers`."""
        process, pipe = self._processes[slot], self._pipes[slot]
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()  # it may hang in the simulator, and has nothing to save
            process.join(_REAP_SECONDS)
        self._processes[slot] = self._pipes[slot] = None


def _work(pipe: connection.Connection, memory: Any, setup: Setup) -> None:
    """Body of a worker process; it ends when the main process does, or on the first error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    views = _views(memory, setup)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        for reply in _replies(pipe, setup, views):
            pipe.send(reply)


def _replies(pipe: connection.Connection, setup: Setup, views: Observation) -> Iterator[Reply]:
    """Replies to the commands that come in; `Failed` is the last. Errors of the pipe itself go through."""
    try:
        runner = EpisodeRunner(setup)
        started = runner.started()
    except Exception as error:
        yield failure(error)
        return
    yield started
    while True:
        command = pipe.recv()
        try:
            progress = runner.handle(command)
            if progress.observation is not None:
                for key, value in progress.observation.items():
                    views[key][...] = value
                progress.observation = None  # it lies in the shared memory
        except Exception as error:
            yield failure(error)
            return
        yield progress


def _views(memory: Any, setup: Setup) -> Observation:
    """Arrays over the shared memory, one per observation key."""
    views, offset = {}, 0
    for key, (shape, dtype) in setup.layout.items():
        views[key] = np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)
        offset += _size(shape, dtype)
    return views


def _size(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of an array."""
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables while a process is started: its libraries read them when they load."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
