"""Samplers against distributions whose optimal networks are known, objectives against their formulas."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from fibo_robot.policies.models.base import PolicyError
from fibo_robot.policies.models.denoising.mlp import ChunkMlp
from fibo_robot.policies.models.denoising.network import ChunkNetwork
from fibo_robot.policies.models.denoising.objectives import (
    Diffusion,
    FlowMatching,
    PredictionType,
    Regression,
    TwoStepRegression,
)
from fibo_robot.policies.models.denoising.samplers import DDIM, Euler, OneStep, TwoSteps
from fibo_robot.policies.models.denoising.transformer import ChunkTransformer
from fibo_robot.policies.models.denoising.unet import ConditionalUnet

MEAN, SPREAD = 0.3, 0.1  # of the Gaussian that chunks are drawn from
SEEN = torch.zeros(1, 1, 1)
SIZES = {"action_dim": 3, "action_horizon": 8, "n_obs_steps": 2, "features": 5}


class Known(ChunkNetwork):
    """A network given as a formula; remembers its calls."""

    def __init__(self, formula: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, chunks: torch.Tensor, times: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        self.calls.append((chunks, times))
        return self.formula(chunks, times[:, None, None])


@functools.cache
def alpha_bar(step: int, steps: int) -> float:
    """Nichol and Dhariwal, arXiv 2102.09672, equation 17, with clipped betas."""

    def cosine(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - cosine((k + 1) / steps) / cosine(k / steps), 0.999) for k in range(step + 1)]
    return math.prod(1 - beta for beta in betas)


def alpha_bars(times: torch.Tensor, steps: int) -> torch.Tensor:
    """The same for times in [0, 1), which are shares of all steps."""
    return torch.tensor([alpha_bar(round(float(time) * steps), steps) for time in times.flatten()]).view_as(
        times
    )


def optimal_noise(steps: int) -> Known:
    """E[noise | noisy chunk] where chunks are Gaussian."""

    def formula(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        bar = alpha_bars(times, steps)
        return (1 - bar).sqrt() * (noisy - bar.sqrt() * MEAN) / (bar * SPREAD**2 + 1 - bar)

    return Known(formula)


def optimal_velocity() -> Known:
    """E[chunk - noise | point between them] where chunks are Gaussian."""

    def formula(points: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        slope = (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2)
        return MEAN + slope * (points - t * MEAN)

    return Known(formula)


def test_ddim_with_the_optimal_network_of_a_gaussian_draws_from_it() -> None:
    noise = torch.linspace(-2, 2, 9).view(9, 1, 1)
    network = optimal_noise(1000)
    chunks = DDIM(Diffusion(1000), steps=1000).sample(network, noise, SEEN)
    assert len(network.calls) == 1000
    # The flow of the probabilities is a straight stretch: standard normal noise becomes the chunks' Gaussian.
    torch.testing.assert_close(chunks, MEAN + SPREAD * noise, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        (5, [99, 79, 59, 39, 19]),
        (16, [99, 93, 87, 80, 74, 68]),  # neither divides 100: the way from a step to the next differs
        (29, [99, 96, 92, 89, 85, 82]),
    ],
)
def test_ddim_takes_the_steps_of_its_papers_equation_from_the_noisiest_on(
    steps: int, first: list[int]
) -> None:
    noise = torch.tensor([0.7, -1.2]).view(2, 1, 1)
    network = optimal_noise(100)
    chunks = DDIM(Diffusion(100), steps=steps).sample(network, noise, SEEN)
    visited = [round(100 * float(times[0])) for _, times in network.calls]
    assert (visited[: len(first)], len(visited)) == (first, steps)
    expected = noise.double().numpy()
    for step, following in itertools.pairwise([*visited, None]):
        assert step is not None
        bar, before = alpha_bar(step, 100), 1.0 if following is None else alpha_bar(following, 100)
        predicted = math.sqrt(1 - bar) * (expected - math.sqrt(bar) * MEAN) / (bar * SPREAD**2 + 1 - bar)
        clean = np.clip((expected - math.sqrt(1 - bar) * predicted) / math.sqrt(bar), -1, 1)
        expected = math.sqrt(before) * clean + math.sqrt(1 - before) * predicted
    np.testing.assert_allclose(chunks.numpy(), expected, atol=1e-4)


def test_euler_with_the_optimal_velocity_of_a_gaussian_draws_from_it() -> None:
    noise = torch.linspace(-2, 2, 9).view(9, 1, 1)
    chunks = Euler(FlowMatching(), steps=400).sample(optimal_velocity(), noise, SEEN)
    torch.testing.assert_close(chunks, MEAN + SPREAD * noise, atol=0.01, rtol=0)


def test_euler_takes_the_steps_of_diffusers_scheduler() -> None:
    noise, velocity = torch.randn(3, 4, 2), optimal_velocity()
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10))
    expected = noise
    for step, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        # diffusers runs from noise at sigma 1 to data at 0, and its velocity is noise minus data.
        predicted = -velocity(expected, (1 - sigma).expand(3), SEEN)
        expected = scheduler.step(predicted, step, expected).prev_sample
    torch.testing.assert_close(Euler(FlowMatching(), 10).sample(velocity, noise, SEEN), expected)


def test_a_network_that_knows_the_noise_has_no_loss() -> None:
    chunks, valid = torch.rand(64, 4, 2) - 0.5, torch.ones(64, 4, dtype=torch.bool)

    def formula(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        bar = alpha_bars(times, 50)
        return (noisy - bar.sqrt() * chunks) / (1 - bar).sqrt()

    assert Diffusion(50).loss(Known(formula), chunks, valid, SEEN) < 1e-6
    assert Diffusion(50).loss(Known(lambda noisy, _: noisy), chunks, valid, SEEN) > 1e-2


def test_what_a_diffusion_predicts_changes_the_question_and_not_the_chunk() -> None:
    """From E[noise | noisy chunk]: E[chunk | noisy chunk] and the velocity of arXiv 2202.00512: the same."""
    noise, steps = torch.linspace(-2, 2, 9).view(9, 1, 1), 100
    epsilon = optimal_noise(steps)

    def chunk(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        bar = alpha_bars(times, steps)
        return (noisy - (1 - bar).sqrt() * epsilon.formula(noisy, times)) / bar.sqrt()

    def velocity(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        bar = alpha_bars(times, steps)
        return bar.sqrt() * epsilon.formula(noisy, times) - (1 - bar).sqrt() * chunk(noisy, times)

    expected = DDIM(Diffusion(steps), steps=20).sample(epsilon, noise, SEEN)
    answers: dict[PredictionType, Known] = {"sample": Known(chunk), "v_prediction": Known(velocity)}
    for prediction_type, network in answers.items():
        objective = Diffusion(steps, prediction_type=prediction_type)
        found = DDIM(objective, steps=20).sample(network, noise, SEEN)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_a_network_that_knows_the_chunk_or_the_velocity_has_no_loss(prediction_type: PredictionType) -> None:
    chunks, valid = torch.rand(64, 4, 2) - 0.5, torch.ones(64, 4, dtype=torch.bool)

    def known(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        bar = alpha_bars(times, 50)
        noise = (noisy - bar.sqrt() * chunks) / (1 - bar).sqrt()
        return chunks if prediction_type == "sample" else bar.sqrt() * noise - (1 - bar).sqrt() * chunks

    objective = Diffusion(50, prediction_type=prediction_type)
    assert objective.loss(Known(known), chunks, valid, SEEN) < 1e-6
    assert objective.loss(Known(lambda noisy, _: torch.zeros_like(noisy)), chunks, valid, SEEN) > 1e-2


def test_flows_target_is_the_way_from_noise_to_chunk() -> None:
    chunks, valid = torch.rand(64, 4, 2), torch.ones(64, 4, dtype=torch.bool)
    # On its straight line, point - chunk = (1 - t) (noise - chunk).
    known = Known(lambda points, t: (chunks - points) / (1 - t))
    assert FlowMatching().loss(known, chunks, valid, SEEN) < 1e-5
    times = torch.cat([times for _, times in known.calls])
    assert times.min() < 0.1 and times.max() > 0.9 and len(times.unique()) > 60


def test_two_steps_are_a_guess_from_zeros_and_what_becomes_of_a_share_of_it() -> None:
    network = Known(lambda chunks, t: 2 * chunks + t + 0.5)
    chunks = TwoSteps(TwoStepRegression(0.9)).sample(network, torch.randn(2, 3, 1), SEEN)
    # f(0, 0) = 0.5; f(0.9 * 0.5, 0.9) = 0.9 + 0.9 + 0.5.
    torch.testing.assert_close(chunks, torch.full((2, 3, 1), 2.3))
    assert [float(times[0]) for _, times in network.calls] == [0.0, pytest.approx(0.9)]
    assert network.calls[0][0].abs().max() == 0
    once = OneStep(Regression()).sample(network, torch.randn(2, 3, 1), SEEN)
    torch.testing.assert_close(once, torch.full((2, 3, 1), 0.5))


def test_two_step_regression_is_asked_for_the_chunk_twice() -> None:
    chunks, valid = torch.rand(500, 4, 2), torch.ones(500, 4, dtype=torch.bool)
    network = Known(lambda noisy, t: noisy)
    loss = TwoStepRegression(0.9).loss(network, chunks, valid, SEEN)
    (zeros, first), (noisy, second) = network.calls
    assert zeros.abs().max() == 0 and first.abs().max() == 0 and bool((second == 0.9).all())
    noise = (noisy - 0.9 * chunks) / 0.1
    assert noise.mean() == pytest.approx(0, abs=0.1) and noise.std() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(loss, chunks.square().mean() + (noisy - chunks).square().mean())


@pytest.mark.parametrize("kind", [ChunkMlp, ConditionalUnet, ChunkTransformer])
def test_a_network_answers_to_the_chunk_the_time_and_what_is_seen(kind: Callable[..., ChunkNetwork]) -> None:
    torch.manual_seed(0)
    network = kind(**SIZES).eval()
    chunks, times, seen = torch.randn(2, 8, 3), torch.rand(2), torch.randn(2, 2, 5)
    out = network(chunks, times, seen)
    assert out.shape == (2, 8, 3)
    for changed in ((chunks + 1, times, seen), (chunks, times / 2, seen), (chunks, times, seen.flip(1))):
        assert (network(*changed) - out).abs().max() > 1e-4
    alone = network(chunks[:1], times[:1], seen[:1])
    torch.testing.assert_close(alone, out[:1], atol=1e-5, rtol=1e-4)


def test_the_unet_is_a_pyramid_with_a_scale_and_a_shift_per_channel() -> None:
    network = ConditionalUnet(**SIZES, channels=(8, 16, 32), condition_features=None, time_features=16)
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_hook(lambda *call: seen.append(tuple(call[2].shape[1:])))
    network(torch.randn(1, 8, 3), torch.rand(1), torch.randn(1, 2, 5))
    # Four convolutions on each level down, in the middle, and on each level up; the last one alone.
    assert seen == [(8, 8)] * 4 + [(16, 4)] * 4 + [(32, 2)] * 8 + [(16, 2)] * 4 + [(8, 4)] * 4 + [(8, 8)]
    film = network.get_submodule("middle.0.film.1")
    assert isinstance(film, torch.nn.Linear)
    assert (film.in_features, film.out_features) == (16 + 2 * 5, 2 * 32)


def test_a_step_of_the_transformers_chunk_knows_of_no_later_one() -> None:
    network = ChunkTransformer(**SIZES).eval()
    chunks, rest = torch.randn(1, 8, 3), (torch.rand(1), torch.randn(1, 2, 5))
    changed = chunks.clone()
    changed[:, 5] += 1
    moved = (network(changed, *rest) - network(chunks, *rest)).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False] * 5 + [True] * 3


def test_a_horizon_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"data\.action_horizon to a multiple of 4"):
        ConditionalUnet(**{**SIZES, "action_horizon": 10}, channels=(8, 16, 32))


@pytest.mark.parametrize(
    ("sampler", "objective"),
    [(DDIM, FlowMatching), (Euler, Regression), (TwoSteps, FlowMatching), (OneStep, Diffusion)],
)
def test_a_sampler_refuses_an_objective_it_does_not_understand(sampler: Any, objective: Any) -> None:
    with pytest.raises(PolicyError, match=rf"{sampler.__name__} .*not {objective.__name__}"):
        sampler(objective())


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(PolicyError, match="between 0 and 1"):
        TwoStepRegression(1.0)
    with pytest.raises(PolicyError, match="at most train_steps, 10"):
        DDIM(Diffusion(10), steps=11)
    with pytest.raises(PolicyError, match="at least 1"):
        Euler(FlowMatching(), steps=0)
    with pytest.raises(PolicyError, match="one of epsilon, sample, v_prediction, not 'noise'"):
        Diffusion(prediction_type=cast(Any, "noise"))
    with pytest.raises(PolicyError, match="no 'cosine'"):
        Diffusion(schedule=cast(Any, "cosine"))
