import itertools
from typing import NamedTuple

import pytest

from fibo_robot.training.sampler import SamplerError, StepSampler, derived_seed, evaluation_batches


class Rank(NamedTuple):
    """One of the processes that train together."""

    global_rank: int
    world_size: int


def batches(epochs: int, **options) -> list[list[tuple[int, int]]]:
    sampler = StepSampler(seed=3, **options)
    result = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        result += list(sampler)
    return result


def test_every_pass_visits_every_sample_once():
    draws = list(itertools.chain(*batches(4, num_samples=10, batch_size=5, steps_per_epoch=3)))
    assert [draw for _, draw in draws] == list(range(60))
    for start in range(0, 60, 10):
        assert sorted(index for index, _ in draws[start : start + 10]) == list(range(10))


def test_passes_differ_from_each_other():
    draws = [
        index for batch in batches(2, num_samples=50, batch_size=50, steps_per_epoch=1) for index, _ in batch
    ]
    assert draws[:50] != draws[50:]


def test_starting_at_a_later_epoch_continues_the_same_stream():
    options = {"num_samples": 7, "batch_size": 4, "steps_per_epoch": 5}
    whole = batches(3, **options)
    sampler = StepSampler(seed=3, **options)
    sampler.set_epoch(2)
    assert list(sampler) == whole[10:]


def test_two_processes_share_the_batch_of_one():
    one = batches(2, num_samples=11, batch_size=6, steps_per_epoch=4)
    halves = [
        batches(2, num_samples=11, batch_size=3, steps_per_epoch=4, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert [a + b for a, b in zip(*halves)] == one


def test_repeats_stand_side_by_side_and_no_process_splits_them():
    options = {"num_samples": 5, "steps_per_epoch": 6, "repeats": 3}
    once = batches(1, num_samples=5, batch_size=4, steps_per_epoch=6)
    (thrice,) = [batches(1, batch_size=12, **options)]
    assert [index for batch in thrice for index, _ in batch[::3]] == [i for batch in once for i, _ in batch]
    assert [draw for batch in thrice for _, draw in batch] == list(range(72))
    assert all(batch[n][0] == batch[n - n % 3][0] for batch in thrice for n in range(12))
    halves = [batches(1, batch_size=6, rank=rank, world_size=2, **options) for rank in range(2)]
    assert [a + b for a, b in zip(*halves)] == thrice
    with pytest.raises(SamplerError, match="4 cannot hold each sample 3 times"):
        StepSampler(5, 4, 1, seed=0, repeats=3)


def test_a_batch_larger_than_the_dataset_is_filled_by_further_passes():
    (batch,) = batches(1, num_samples=3, batch_size=8, steps_per_epoch=1)
    assert sorted(index for index, _ in batch[:6]) == [0, 0, 1, 1, 2, 2]


def test_derived_seeds_tell_apart_order_and_length():
    seeds = [derived_seed(1, 2), derived_seed(2, 1), derived_seed(1), derived_seed(1, 2, 0)]
    assert len(set(seeds)) == len(seeds)


def test_sampler_of_a_trainer_knows_its_rank():
    trainer = Rank(global_rank=1, world_size=2)
    given = StepSampler.for_trainer(trainer, num_samples=11, batch_size=3, steps_per_epoch=4, seed=3)
    assert list(given) == list(StepSampler(11, 3, 4, 3, rank=1, world_size=2))


def test_processes_evaluate_every_sample_once_together():
    shares = [evaluation_batches(Rank(global_rank=r, world_size=3), 10, 2) for r in range(3)]
    assert shares[1] == [[(1, 0), (4, 0)], [(7, 0)]]
    assert sorted(index for share in shares for batch in share for index, _ in batch) == list(range(10))


def test_fewer_samples_than_processes_are_refused():
    with pytest.raises(SamplerError, match="too few for 3 processes"):
        evaluation_batches(Rank(global_rank=0, world_size=3), 2, 2)
