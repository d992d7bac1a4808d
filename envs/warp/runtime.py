"""MuJoCo Warp itself: whether it and its device can be had here, and the message where they cannot.

Nothing here imports Warp before the versions are known to fit: with one that does not, it would fail in the
middle of compiling kernels, with an error that names neither cause nor cure.
"""

import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from packaging.specifiers import SpecifierSet

from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.physics.capacity import Memory
from fibo_robot.extras import installed_version, require
from fibo_robot.progress import counter, shown

# What works together (the extras `sim` and `warp` of this package): mujoco-warp 3.9 reads the models of
# mujoco 3.9 only, and its kernels do not compile with warp-lang 1.16; before 1.14, Warp has no log level.
SUPPORTED = {"mujoco": "==3.9.0", "mujoco-warp": "==3.9.0.1", "warp-lang": ">=1.14,<1.16"}
_PURPOSE = "Batched simulation"
_SLOW = 3.0  # seconds after which a first step must be compiling: with cached kernels it takes one


def check_versions() -> None:
    """Refuse versions that do not fit together.

    Raises:
        MissingExtraError: one of the packages is not installed.
        WarpError: some do not fit; the message says which, and what to install.
    """
    found = {name: installed_version(name, extra="warp", purpose=_PURPOSE) for name in SUPPORTED}
    wrong = [name for name, version in found.items() if version not in SpecifierSet(SUPPORTED[name])]
    if wrong:
        needed = " ".join(f"'{name}{SUPPORTED[name]}'" for name in SUPPORTED)
        have = " and ".join(f"{name} {found[name]}" for name in wrong)
        raise WarpError(
            f"{_PURPOSE} does not work with {have}, which this environment has: pip install {needed}."
        )


def import_warp() -> tuple[Any, Any]:
    """The modules `warp` and `mujoco_warp`; raises what :func:`check_versions` does."""
    check_versions()
    warp = require("warp", extra="warp", purpose=_PURPOSE)
    warp.config.log_level = warp.LOG_ERROR  # Warp reports every start and every loaded module otherwise
    warp.init()
    return warp, require("mujoco_warp", extra="warp", purpose=_PURPOSE)


def resolve_device(name: str | torch.device) -> torch.device:
    """The device called `name`: `cpu`, `cuda` (the current one) or `cuda:1`.

    Raises:
        WarpError: it is no such name, or torch or the machine lacks it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise WarpError(f"Worlds run on cpu, cuda, or one GPU such as cuda:1, not on {str(name)!r}.")
    if device.type == "cpu":
        return torch.device("cpu")
    if not torch.backends.cuda.is_built():
        raise WarpError(
            f"torch {torch.__version__} is built without CUDA: install one with it (https://pytorch.org), or "
            "take the device cpu, which is slow."
        )
    if not torch.cuda.is_available():
        raise WarpError("torch finds no GPU here: look at nvidia-smi, or take the device cpu, which is slow.")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise WarpError(f"There is no device cuda:{index}: this machine has {torch.cuda.device_count()}.")
    return torch.device("cuda", index)


def check_memory(memory: Memory, num_worlds: int, device: torch.device) -> None:
    """Refuse more worlds than fit, before anything is allocated.

    Args:
        memory: what they take.
        num_worlds: how many they are.
        device: where they are to lie.

    Raises:
        WarpError: it does not fit; the message says how many worlds would.
    """
    free, needed = _free_memory(device), memory.of(num_worlds)
    if needed <= free:
        return
    raise WarpError(
        f"{num_worlds} worlds need about {needed / 2**30:.1f} GiB, and {device} has {free / 2**30:.1f} GiB "
        f"free: take at most {memory.most_worlds(free)} worlds."
    )


def _free_memory(device: torch.device) -> int:
    """Bytes free; where nobody knows, a number that refuses nothing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch only keeps in reserve, Warp can have
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":") for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return sys.maxsize


class Compilation:
    """Shows how far the compilation of kernels is; nothing where no bars are, or where all are cached."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ran: set[str] = set()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Around what compiles the kernels that it needs when it runs for the first time, by name."""
        if what in self._ran or not shown():
            yield
        else:
            text = f"Compiling the simulation's kernels for {self._device} (minutes, once on this machine)"
            with counter(text, _SLOW) as count, compiled_modules(count):
                yield
        self._ran.add(what)


@contextmanager
def compiled_modules(report: Callable[[str], None]) -> Iterator[None]:
    """Call `report` with the name of each of Warp's modules that is compiled within; not of cached ones."""
    warp, _ = import_warp()
    logger = warp.get_logger()
    warp.set_logger(_ModuleLogger(report, logger))
    try:
        with warp.ScopedLogLevel(warp.LOG_INFO):
            yield
    finally:
        warp.set_logger(logger)


class _ModuleLogger:
    """Takes from what Warp says which module it compiled, and passes on errors, as our log level has it."""

    def __init__(self, report: Callable[[str], None], other: Any) -> None:
        self._report, self._other = report, other

    def info(self, message: str) -> None:
        match = re.search(r"\bModule (\S+) .* load on device .*\(compiled\)$", message)
        if match:
            # Modules are named after Python's, or after one kernel and a hash of what it depends on.
            name = match[1].rsplit(".", 1)[-1].split("__locals__")[0]
            self._report(name.strip("_"))

    def error(self, message: str) -> None:
        self._other.error(message)

    def debug(self, message: str) -> None:
        """Nobody asked."""

    def warning(self, message: str, category: Any = None, stacklevel: int = 1) -> None:
        """Nobody asked."""


def versions() -> dict[str, str]:
    """Versions of what decides how a batched simulation goes on."""
    return {name: importlib.metadata.version(name) for name in SUPPORTED}
