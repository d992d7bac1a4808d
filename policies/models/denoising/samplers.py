"""How chunks are made with what a network has learnt; each sampler understands one objective.

All noise is drawn once, before the first step, so that a chunk is a function of its episode's noise.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from fibo_robot.plugins import register
from fibo_robot.policies.models.base import PolicyError
from fibo_robot.policies.models.denoising.network import ChunkNetwork
from fibo_robot.policies.models.denoising.objectives import (
    Diffusion,
    FlowMatching,
    Objective,
    Regression,
    TwoStepRegression,
)


class Sampler(ABC):
    """Chunks from a network."""

    @abstractmethod
    def sample(self, network: ChunkNetwork, noise: Tensor, seen: Tensor) -> Tensor:
        """Chunks `(B, H, A)` from standard normal noise of that shape and features `(B, n_obs_steps, F)`."""


@register
class OneStep(Sampler):
    """What regression predicts; noise is not used.

    Args:
        objective: Regression, or TwoStepRegression, whose second step is left out.
    """

    def __init__(self, objective: Objective) -> None:
        _check(self, objective, Regression, TwoStepRegression)

    def sample(self, network: ChunkNetwork, noise: Tensor, seen: Tensor) -> Tensor:
        return network(torch.zeros_like(noise), noise.new_zeros(len(noise)), seen)


@register
class TwoSteps(Sampler):
    """MIP's two passes (arXiv 2512.01809): a guess from zeros, and what becomes of t times the guess.

    Noise is not used.

    Args:
        objective: TwoStepRegression; says t.
    """

    def __init__(self, objective: Objective) -> None:
        _check(self, objective, TwoStepRegression)
        assert isinstance(objective, TwoStepRegression)
        self.first, self.time = OneStep(objective), objective.time

    def sample(self, network: ChunkNetwork, noise: Tensor, seen: Tensor) -> Tensor:
        guess = self.first.sample(network, noise, seen)
        return network(self.time * guess, torch.full_like(noise[:, 0, 0], self.time), seen)


@register
class Euler(Sampler):
    """Follows the velocity from noise at time 0 to a chunk at time 1 in equal steps.

    Args:
        objective: FlowMatching.
        steps: passes through the network.
    """

    def __init__(self, objective: Objective, steps: int = 10) -> None:
        _check(self, objective, FlowMatching)
        self.steps = _positive(steps)

    def sample(self, network: ChunkNetwork, noise: Tensor, seen: Tensor) -> Tensor:
        chunks = noise
        for step in range(self.steps):
            times = torch.full_like(noise[:, 0, 0], step / self.steps)
            chunks = chunks + network(chunks, times, seen) / self.steps
        return chunks


@register
class DDIM(Sampler):
    """Takes noise out again in fewer steps than it was learnt for, by diffusers' DDIM scheduler.

    Song et al., "Denoising diffusion implicit models" (arXiv 2010.02502), with eta 0. Steps are spread
    evenly and end at the noisiest: with the scheduler's default spacing the first would take noise that is
    not there.

    Args:
        objective: Diffusion; says the noise schedule, and what the network predicts.
        steps: passes through the network.
    """

    def __init__(self, objective: Objective, steps: int = 16) -> None:
        _check(self, objective, Diffusion)
        assert isinstance(objective, Diffusion)
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        self.train_steps = objective.train_steps
        if _positive(steps) > self.train_steps:
            raise PolicyError(f"policy.sampler.steps can be at most train_steps, {self.train_steps}.")
        visited = [round(number * self.train_steps / steps) - 1 for number in range(1, steps + 1)]
        # The scheduler takes steps of train_steps // steps whatever lies between two that it visits, so its
        # noise would not be that of the next one's. Given the visited steps' noise alone, it goes from each
        # to the next. Normalised chunks lie in [-1, 1], which is where it clips its estimates.
        self.scheduler: Any = DDIMScheduler(steps, prediction_type=objective.prediction_type)
        self.scheduler.alphas_cumprod = objective.scheduler.alphas_cumprod[visited]
        self.scheduler.set_timesteps(steps)
        self.steps = visited[::-1]

    def sample(self, network: ChunkNetwork, noise: Tensor, seen: Tensor) -> Tensor:
        chunks = noise
        for number, step in zip(self.scheduler.timesteps.tolist(), self.steps, strict=True):
            times = torch.full_like(noise[:, 0, 0], step / self.train_steps)
            predicted = network(chunks, times, seen)
            chunks = self.scheduler.step(predicted, number, chunks).prev_sample
        return chunks


def _check(sampler: Sampler, objective: Objective, *understood: type[Objective]) -> None:
    if not isinstance(objective, understood):
        names = " or ".join(kind.__name__ for kind in understood)
        raise PolicyError(
            f"The sampler {type(sampler).__name__} belongs to the objective {names}, not "
            f"{type(objective).__name__}: set policy.sampler and policy.objective together."
        )


def _positive(steps: int) -> int:
    if steps < 1:
        raise PolicyError(f"policy.sampler.steps must be at least 1, not {steps}.")
    return steps
