"""MuJoCo Warp itself: whether it and its device can be had here, and the message where they cannot.

Nothing here imports Warp before the versions are known to fit: with one that does not, it would fail in the
middle of compiling kernels, with an error that names neither cause nor cure.
"""

import importlib.metadata
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from packaging.specifiers import SpecifierSet

from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.extras import installed_version, require
from fibo_robot.progress import shown

# What works together (the extras `sim` and `warp` of this package): mujoco-warp 3.9 reads the models of
# mujoco 3.9 only, and its kernels do not compile with warp-lang 1.16.
SUPPORTED = {"mujoco": "==3.9.0", "mujoco-warp": "==3.9.0.1", "warp-lang": ">=1.13,<1.16"}
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


def check_memory(fixed: int, per_world: int, num_worlds: int, device: torch.device) -> None:
    """Refuse more worlds than fit, before anything is allocated.

    Args:
        fixed, per_world: bytes that are taken once, and by each world.
        num_worlds: how many they are.
        device: where they are to lie.

    Raises:
        WarpError: it does not fit; the message says how many worlds would.
    """
    free, needed = _free_memory(device), fixed + num_worlds * per_world
    if needed <= free:
        return
    raise WarpError(
        f"{num_worlds} worlds need about {needed / 2**30:.1f} GiB, and {device} has {free / 2**30:.1f} GiB "
        f"free: take at most {max(0, (free - fixed) // per_world)} worlds."
    )


def _free_memory(device: torch.device) -> int:
    """Bytes free; where nobody knows, a number that refuses nothing."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":") for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return sys.maxsize


@contextmanager
def compilation_notice(device: torch.device) -> Iterator[None]:
    """Say that kernels are being compiled where the work within takes long; silent where bars are."""
    text = f"Compiling the simulation's kernels for {device}: a minute or two, once on this machine …"
    timer = threading.Timer(_SLOW, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    if shown():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def versions() -> dict[str, str]:
    """Versions of what decides how a batched simulation goes on."""
    return {name: importlib.metadata.version(name) for name in SUPPORTED}
