"""The crossover's rows compare the two backends, and leave the number of threads as it was."""

import torch

from fibo_robot.attention import diagonal_attention
from fibo_robot.benchmarks.attention import crossover


def test_rows_are_of_both_backends_on_the_threads_that_were_asked_for(monkeypatch):
    calls, before = [], torch.get_num_threads()

    def spy(q, k, v, offsets, *, backend):
        calls.append((backend, q.shape[2], q.requires_grad, torch.get_num_threads()))
        return diagonal_attention(q, k, v, offsets, backend=backend)

    monkeypatch.setattr(crossover, "diagonal_attention", spy)
    rows = crossover.measure([17, 33], training=True, rounds=1)
    assert [row.tokens for row in rows] == [17, 33]
    assert all(row.training and row.milliseconds > 0 and row.speedup > 0 for row in rows)
    assert set(calls) == {(backend, n, True, 1) for backend in ("numba", "sdpa") for n in (17, 33)}
    assert torch.get_num_threads() == before
