"""Which samples make up which training step: a pure function of the seed and the step number.

A run that is killed restarts at the last checkpoint and meets exactly the batches that an uninterrupted
run meets, with any number of loader workers, because no state but the step number decides them.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Sampler

from fibo_robot.errors import FiboError


class Process(Protocol):
    """One of the processes that train together, as a Lightning trainer knows it."""

    @property
    def global_rank(self) -> int:
        """Its number, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """How many there are."""
        ...


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from several integers; different tuples give independent streams."""
    # The length goes in too: SeedSequence pads with zeros, so (1, 2) and (1, 2, 0) would be one stream.
    words = np.random.SeedSequence((len(parts), *parts)).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


class SamplerError(FiboError, ValueError):
    """A batch size, a number of steps or a dataset that is empty."""


def evaluation_batches(trainer: Process, num_samples: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """This process's batches of `(index, 0)`; a trainer's processes see every sample once together.

    Raises:
        SamplerError: there are fewer samples than processes.
    """
    if num_samples < trainer.world_size:  # a process without a batch would leave the others waiting
        raise SamplerError(
            f"{num_samples} samples to validate on are too few for {trainer.world_size} processes: "
            "validate on more of them, or train with fewer processes."
        )
    pairs = [(index, 0) for index in range(trainer.global_rank, num_samples, trainer.world_size)]
    return [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler over endless shuffled passes, cut into "epochs" of a fixed number of steps.

    Yields lists of `(sample_index, draw)`. `draw` counts samples since the start of training, so a
    dataset that seeds its augmentation with `derived_seed(seed, draw)` is reproducible in any worker.

    Args:
        num_samples: size of the dataset.
        batch_size: samples per step and process.
        steps_per_epoch: steps between two checkpoints.
        seed: decides every pass's order.
        repeats: how often each sample stands in its batch, one draw after the other; `batch_size` is a
            multiple of it.
        rank, world_size: this process's share; together the processes see one batch of
            `batch_size * world_size` samples, the same that a single process with that batch size sees.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ) -> None:
        if min(num_samples, batch_size, steps_per_epoch) < 1:
            raise SamplerError(
                "num_samples, batch_size and steps_per_epoch must be positive, not "
                f"{num_samples}, {batch_size} and {steps_per_epoch}."
            )
        if repeats < 1 or batch_size % repeats:
            raise SamplerError(
                f"a batch of {batch_size} cannot hold each sample {repeats} times: its size must be a "
                "multiple."
            )
        self.repeats = repeats
        self.num_samples, self.batch_size, self.steps_per_epoch = num_samples, batch_size, steps_per_epoch
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        # Lightning looks for `set_epoch` on `batch_sampler.sampler`.
        self.sampler = self

    @classmethod
    def for_trainer(
        cls,
        trainer: Process,
        num_samples: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        repeats: int = 1,
    ) -> "StepSampler":
        """The sampler of this process among all that a Lightning trainer runs."""
        process = (trainer.global_rank, trainer.world_size)
        return cls(num_samples, batch_size, steps_per_epoch, seed, *process, repeats)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose steps the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order_of_pass: dict[int, torch.Tensor] = {}
        global_batch = self.batch_size * self.world_size
        for step in range(self.epoch * self.steps_per_epoch, (self.epoch + 1) * self.steps_per_epoch):
            first = step * global_batch + self.rank * self.batch_size
            batch = []
            for draw in range(first, first + self.batch_size):
                number, position = divmod(draw // self.repeats, self.num_samples)
                if number not in order_of_pass:
                    generator = torch.Generator().manual_seed(derived_seed(self.seed, number))
                    order_of_pass = {
                        k: v
                        for k, v in order_of_pass.items()
                        if k >= number - 1 - global_batch // self.num_samples
                    } | {number: torch.randperm(self.num_samples, generator=generator)}
                batch.append((int(order_of_pass[number][position]), draw))
            yield batch
