"""What every file of numba kernels shares: compiling and caching, views of tensors, threads, inlined loops.

Code that kernels inline lives in files named `numba_*.py`. numba's own cache looks at the file of the kernel
alone, so compiled code lies in a folder named by a digest over all of these files: after a change to any of
them, nothing stale is found.

`lanes` is a tuple of length head_dim, or empty. The length of a tuple belongs to its type, so with it the
loops over a head's channels have a constant count, which makes them 1.5 times faster; one version is compiled
per length.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import config as numba_config
from numba import njit
from torch import Tensor

config: Any = numba_config  # numba sets its attributes from the environment
TILE = 64  # tokens per task: q, out and the logits of a tile stay in the first cache
CONSTANT_HEAD_DIMS = (32, 64)  # compiled with loops of constant length; other head dims share one version


def _cache_folder() -> Path:
    """Where compiled code lies: below NUMBA_CACHE_DIR, else beside this file, else in the user's cache."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("numba_*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    name = f"fibo_robot-{digest.hexdigest()[:16]}"
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR) / name
    beside = Path(__file__).parent / "__pycache__"
    try:
        beside.mkdir(exist_ok=True)
    except OSError:
        writable = False
    else:
        writable = os.access(beside, os.W_OK)
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (beside if writable else users / "fibo_robot") / name


_CACHE_FOLDER = str(_cache_folder())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel at its first call: without the GIL, cached on disk.

    Sums may be reordered, but NaN and infinity keep their meaning.
    """
    before = config.CACHE_DIR
    config.CACHE_DIR = _CACHE_FOLDER  # read while the kernel is made, and put back for everyone else's
    try:
        fastmath = {"reassoc", "contract", "nsz", "arcp"}
        return njit(nogil=True, cache=True, fastmath=fastmath, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before


def lanes(tensor: Tensor) -> tuple[int, ...]:
    """A tuple whose length is head_dim where that is worth its own compiled version."""
    head_dim = tensor.shape[-1]
    return tuple(range(head_dim)) if head_dim in CONSTANT_HEAD_DIMS else ()


def per_head(tensor: Tensor) -> np.ndarray:
    """`(B, heads, ...)` as `(B · heads, ...)`, sharing memory."""
    return tensor.detach().flatten(0, 1).numpy()


def run(kernel: Callable[..., None], *arguments: Any, workers: int | None = None) -> None:
    """Call the kernel once per worker, each with its share of the tasks; as many as PyTorch has threads."""
    workers = torch.get_num_threads() if workers is None else workers
    others = [_pool(workers).submit(kernel, *arguments, w, workers) for w in range(1, workers)]
    kernel(*arguments, 0, workers)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix="fibo-attention")


# Threads do not survive a fork: a child makes its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


@compiled
def width(lanes, a):
    """Channels of the rows of `a`: a constant where `lanes` has them."""
    return len(lanes) if len(lanes) > 0 else a.shape[1]


@compiled
def dot(a, i, b, j, lanes):
    """Row i of a times row j of b."""
    total = a.dtype.type(0)
    for d in range(width(lanes, a)):
        total += a[i, d] * b[j, d]
    return total


@compiled
def add_scaled(factor, source, i, target, j, lanes):
    """Add factor times row i of source to row j of target."""
    for d in range(width(lanes, source)):
        target[j, d] += factor * source[i, d]


@compiled
def fill_row(target, i, values):
    """Set row i of target."""
    for d in range(values.shape[0]):
        target[i, d] = values[d]
