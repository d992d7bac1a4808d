"""What every file of numba kernels shares: compiling and caching them, handing them tensors, and threads.

A kernel is a C function of one pointer, to a record that says where tensors lie and what to do. It is called
by as many threads as PyTorch uses: by PyTorch's own, where its OpenMP runtime can be asked (after an operator
they spin for a while, and other threads would share their cores), else by Python's. The threads claim tasks
one after the other until none is left, and every number is written by exactly one task: so results do not
depend on how many there are, and nobody waits for one that is late to begin.

numba's own cache looks at the file of a kernel alone. Helpers that it inlines lie in other files of this
folder, so compiled code lies in a folder named by a digest over all of these.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import config as numba_config
from numba import types
from torch import Tensor

from fibo_robot.attention.backends.numba.vectors import fetch_add
from fibo_robot.attention.operator import empty_tokens_first

config: Any = numba_config  # numba sets its attributes from the environment
LANES = 16  # a row's channels are a multiple of it: one AVX-512 register, two of AVX2
VIEW = np.dtype([("address", "i8"), ("batch", "i8"), ("head", "i8"), ("token", "i8")])  # strides in bytes
# One string object for each dtype: numba's cache tells kernels apart by a pickle of what they take from
# around them, and equal strings are pickled otherwise than one string twice.
DTYPE_NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}

Kernel = Callable[[int], None]


def _cache_folder() -> Path:
    """Where compiled code lies: below NUMBA_CACHE_DIR, else beside this file, else in the user's cache."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
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


def inlined(function: Callable[..., Any]) -> Any:
    """A part of kernels, compiled into each of them."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


def compile_kernel(body: Callable[[Any], None], record: np.dtype) -> Kernel:
    """A function of a pointer to such a record; compiled once, and cached on disk.

    What the body takes from around it must be integers and strings: the cache goes by their values.
    """
    with _compiling:
        before = config.CACHE_DIR
        config.CACHE_DIR = _CACHE_FOLDER  # read while the kernel is made, and put back for everyone else's
        try:
            signature = types.void(types.CPointer(numba.from_dtype(record)))
            made = numba.cfunc(signature, cache=True, error_model="numpy")(body)
        finally:
            config.CACHE_DIR = before
    _compiled.append(made)  # its code lives as long as it does
    address: Any = made.address
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


_compiled: list[Any] = []
_compiling = threading.Lock()  # two threads would put back each other's folder


@inlined
def row_at(view, batch, head, token):
    """Address of a row."""
    return view.address + batch * view.batch + head * view.head + token * view.token


@inlined
def hold(buffer):
    """Keeps an array until here: numba frees it after its last use, and that of its address is none."""
    buffer[0] = 0


def run(kernel: Kernel, record: np.ndarray, workers: int | None = None) -> None:
    """Call the kernel on its record in as many threads as PyTorch has.

    The record's `claimed` becomes the address of the counter of claimed tasks.
    """
    workers = torch.get_num_threads() if workers is None else workers
    claimed = np.zeros(1, np.int64)
    record["claimed"] = claimed.ctypes.data
    address = record.ctypes.data
    if workers == 1:
        kernel(address)
    elif (team := _team()) is not None:
        team(kernel, address, workers, 0)
    else:
        others = [_pool(workers).submit(kernel, address) for _ in range(1, workers)]
        kernel(address)
        for other in others:
            if not other.cancel():  # one that has not begun finds nothing left to do
                other.result()


@inlined
def next_task(job):
    """The number of a task that is this thread's from now on."""
    return fetch_add(job.claimed, 1)


_forked = False


@lru_cache(maxsize=1)
def _team() -> Callable[..., None] | None:
    """Runs a function in all threads of PyTorch's OpenMP runtime: `(function, argument, threads, flags)`."""
    if _forked:  # those threads did not survive the fork, and the runtime does not know
        return None
    try:
        runtime = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        team = runtime.GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.restype = None
    team.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    return team


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix="fibo-attention")


def _after_fork() -> None:
    global _forked
    _forked = True
    _team.cache_clear()
    _pool.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


def place(record: np.ndarray, **tensors: Tensor) -> None:
    """Tell a record where the rows of tensors `(B, heads, N, D)` lie; their channels must be adjacent."""
    for name, tensor in tensors.items():
        size = tensor.element_size()
        batch, head, token, _ = tensor.stride()
        record[name] = tensor.data_ptr(), batch * size, head * size, token * size


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """What numbers of a tensor's type are computed in."""
    return torch.promote_types(dtype, torch.float32)


def rows_as_stored(*tensors: Tensor) -> tuple[list[Tensor], str]:
    """Tensors as kernels read them, and the name of the first one's dtype."""
    rows = [_row_as_stored(tensor) for tensor in tensors]
    return rows, DTYPE_NAMES[rows[0].dtype]


def _row_as_stored(tensor: Tensor) -> Tensor:
    """float16 becomes float32; channels that are apart, or no multiple of LANES, are copied.

    Missing channels are 0, which changes no product of rows.
    """
    if tensor.dtype == torch.float16:
        tensor = tensor.float()
    missing = -tensor.shape[-1] % LANES
    if missing:
        return torch.nn.functional.pad(tensor, (0, missing))
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def as_given(result: Tensor, given: Tensor, empty: Callable[[Tensor], Tensor] = empty_tokens_first) -> Tensor:
    """A result without the channels and the precision that `rows_as_stored` added; `empty` made it."""
    if result.shape[-1] == given.shape[-1] and result.dtype == given.dtype:
        return result
    return empty(given).copy_(result[..., : given.shape[-1]])
