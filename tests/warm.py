"""Commands in processes of their own that have imported already what commands import.

Importing takes a `fibo train` longer than the little that a test trains. A server imports once; each command
is a fork of it, with the arguments, folder, environment and open files of whoever asks. For tests of what a
command does: a test of how a process begins, or of what it imports, starts Python itself.

`python -S tests/warm.py SOCKET fibo …` or `… SOCKET python …` asks. It ends as the command ends, passes an
interruption on, and takes the command with it when it is killed.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NoReturn

# What training, classifying and rolling out import. No simulator: it looks at the environment then.
IMPORTED = (
    "fibo_robot.cli.main",
    "fibo_robot.training.run",
    "fibo_robot.policies.module",
    "fibo_robot.envs.rollouts.api",
    "fibo_robot.video.training.module",
    "fibo_robot.video.inference.predict",
    "torch._dynamo",  # by every optimizer
)


def ask(address: str, command: list[str]) -> NoReturn:
    """Let the server run a command, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = {"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        signal.signal(signal.SIGINT, lambda *_: connection.send(b"interrupt"))
        status = int(connection.makefile().readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(address: str) -> Callable[[], object] | None:
    """Wait for commands until standard input ends, as it does with the process that writes to it.

    In a process that is forked for a command, what that is to call is returned.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the command that somebody waits for
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    os.rename(f"{address}.new", address)  # nobody finds it before it listens
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a collection in a fork writes on all pages that it shares
    attending: set[int] = set()
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        attending -= {pid for pid in attending if os.waitpid(pid, os.WNOHANG)[0]}
        pid = os.fork()
        if pid == 0:
            listener.close()
            return _attend(connection)
        attending.add(pid)
        connection.close()
    return None


def _attend(connection: socket.socket) -> Callable[[], object]:
    """Watch over one command; returns in its process alone."""
    text, files, *_ = socket.recv_fds(connection, 1 << 16, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        connection.close()
        return partial(_begin, files, **json.loads(text))
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    while ended not in select.select([ended, connection], [], [])[0]:
        said = connection.recv(1 << 10)
        os.kill(pid, signal.SIGINT if said else signal.SIGKILL)
        if not said:  # whoever asked is gone
            break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        connection.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def _begin(files: list[int], command: list[str], folder: str, environment: dict[str, str]) -> object:
    """What Python does before it runs a program, and the program."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # The one from before believes that it can seek, where its file could.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = map(os.path.abspath, filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))
    program, *arguments = command
    if program == "fibo":
        sys.argv = command
        sys.modules["__main__"] = ModuleType("__main__")  # not this file: processes that it starts look there
        return importlib.import_module("fibo_robot.cli.main").main()
    if arguments[0] == "-u":  # unbuffered: whoever asks so reads the output when it is complete
        arguments = arguments[1:]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, folder)
        return runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    return runpy.run_path(os.path.abspath(arguments[0]), run_name="__main__")


if __name__ == "__main__":
    if sys.argv[2:] == ["serve"]:
        if (begin := serve(sys.argv[1])) is not None:
            begin()
    else:
        ask(sys.argv[1], sys.argv[2:])
