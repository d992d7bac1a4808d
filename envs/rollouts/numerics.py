"""How PyTorch computes while a policy decides, so that a row's actions depend on that row alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def independent_rows(batch_size: int) -> Iterator[None]:
    """Round every row of a batch in the same way, wherever it stands and whatever stands beside it.

    PyTorch gets one thread, as the split of a sum among threads also rounds it. In batches of several rows
    it does without oneDNN, whose kernels round a row by its place in the batch on some CPUs (seen on Intel's
    with AMX, with 4 and 8 rows).

    Args:
        batch_size: rows that the policy sees at once.
    """
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = onednn and batch_size == 1
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = onednn
        torch.set_num_threads(threads)
