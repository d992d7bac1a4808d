"""Which launch of a kernel is taken: timed once per kind of shape, and never where timing would do harm."""

from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.triton


@pytest.fixture
def tuning(monkeypatch):
    """The module, with nothing timed yet and launches that take as long as they have warps."""
    from fibo_robot.attention.backends.triton import tuning as triton_tuning

    timed = []

    def milliseconds(run, launch):
        timed.append(launch)
        run(launch)
        return float(launch.num_warps)

    monkeypatch.setattr(triton_tuning, "_fastest", {})
    monkeypatch.setattr(triton_tuning, "_milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return SimpleNamespace(
        choose_launch=triton_tuning.choose_launch, Launch=triton_tuning.Launch, timed=timed
    )


def test_the_fastest_is_found_once_per_kind_of_shape(tuning):
    launches, ran = tuple(tuning.Launch(64, warps) for warps in (8, 2, 4)), []
    for _ in range(3):
        assert tuning.choose_launch("short", launches, ran.append) == launches[1]
    assert tuning.timed == ran == list(launches)
    tuning.choose_launch("long", launches, ran.append)
    assert len(ran) == 6


def test_nothing_is_timed_while_a_graph_is_captured_or_results_must_repeat(tuning, monkeypatch):
    launches = tuple(tuning.Launch(64, warps) for warps in (8, 2))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert tuning.choose_launch("short", launches, print) == launches[0]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert tuning.choose_launch("short", launches, print) == launches[0] and tuning.timed == []
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    assert tuning.choose_launch("short", launches, lambda launch: None) == launches[1]  # nor was that kept


def test_every_head_dim_has_launches_that_differ():
    from fibo_robot.attention.backends.triton.cuda import LAUNCHES

    assert sorted(LAUNCHES) == [64, 128, 256]  # the padded head_dim, up to diagonal_attention's largest
    for launches in LAUNCHES.values():
        assert len(set(launches)) == len(launches) > 1
        assert all(launch.block & (launch.block - 1) == 0 for launch in launches)
