"""Temporal ensembling against the sum that ACT's paper writes down, and against its released code's way."""

import numpy as np
import pytest
import torch

from fibo_robot.policies.models.base import PolicyError
from fibo_robot.policies.models.ensemble import TemporalEnsemble
from tests.policies.models.families import create

HORIZON, STEPS, DIM = 4, 9, 2


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.7])
def test_an_action_is_the_mean_of_all_that_were_predicted_for_it_oldest_first(decay: float) -> None:
    chunks = torch.randn(STEPS, HORIZON, DIM, generator=torch.Generator().manual_seed(0))
    ensemble = TemporalEnsemble(HORIZON, decay)
    held = None
    for step in range(STEPS):
        means = ensemble.update(chunks[step : step + 1], [held], (step,))[0]
        # Chunk i, made at step i, says what to do at this step in its row step - i.
        predictions = [chunks[i, step - i].numpy() for i in range(max(0, step - HORIZON + 1), step + 1)]
        weights = np.exp(-decay * np.arange(len(predictions)))
        expected = (weights[:, None] * predictions).sum(0) / weights.sum()
        np.testing.assert_allclose(means[0].numpy(), expected, atol=1e-6)
        held = means[1:]


def test_episodes_of_different_age_share_a_batch() -> None:
    chunks = torch.randn(3, 2, HORIZON, DIM)
    ensemble = TemporalEnsemble(HORIZON, 0.1)
    old = [ensemble.update(chunks[0, :1], [None], (0,))]
    old.append(ensemble.update(chunks[1, :1], [old[0][0, 1:]], (1,)))
    both = ensemble.update(chunks[2], [old[1][0, 1:], None], (2, 0))
    alone = ensemble.update(chunks[2, :1], [old[1][0, 1:]], (2,))
    assert torch.equal(both[0], alone[0])
    torch.testing.assert_close(both[1], chunks[2, 1])


def test_it_is_only_for_policies_that_decide_at_every_step() -> None:
    with pytest.raises(PolicyError, match=r"data\.n_action_steps=1"):
        create("act", "policy.temporal_ensemble=0.01")
