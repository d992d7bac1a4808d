"""Calls as CUDA graphs: what the device does, without the time that Python takes to launch it.

Called from Python, a short attention costs what its launches cost, and PyTorch's own, written in C++, wins
whatever it computes. Models that are compiled (`torch.compile(mode="reduce-overhead")`) or deployed replay
graphs.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Result = TypeVar("Result")
Calls = Mapping[str, Callable[[], object]]

WARMUP = 3  # calls before a capture: they compile, choose launches and create states of optimisers


def captured(calls: Calls) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Replays of those calls that a graph can hold, and of the others the first line of why it cannot."""
    replays, fails = {}, {}
    for name, call in calls.items():
        try:
            replays[name] = capture(call)
        except Exception as error:  # whatever a library raises: the row says so
            fails[name] = first_line(error)
    return replays, fails


def first_line(error: Exception) -> str:
    """What an error says first."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def capture(call: Callable[[], Result]) -> Callable[[], Result]:
    """The replay of a call on the tensors that it has now; it returns what the call did, written anew.

    Raises:
        RuntimeError: the call does what no graph can hold, such as waiting for the device.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARMUP):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
