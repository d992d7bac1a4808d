"""What a network learns: the chunk, the chunk in two steps, a velocity, or the noise in the chunk.

Each is a loss over normalised chunks; the sampler that belongs to it makes chunks with what was learnt. The
split, and the times that make regression, two steps and flow the same network, are those of Pan et al., "Much
ado about noising" (arXiv 2512.01809). Draws come from torch's global generator, which a training step seeds.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fibo_robot.plugins import register
from fibo_robot.policies.models.base import PolicyError
from fibo_robot.policies.models.denoising.network import ChunkNetwork

# diffusers' `beta_schedule`.
NoiseSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
# diffusers' `prediction_type`.
PredictionType = Literal["epsilon", "sample", "v_prediction"]


class Objective(ABC):
    """A loss of a network's chunks."""

    @abstractmethod
    def loss(self, network: ChunkNetwork, chunks: Tensor, valid: Tensor, seen: Tensor) -> Tensor:
        """Mean loss of chunks `(B, H, A)` over valid steps `(B, H)`, given features `(B, n_obs_steps, F)`."""


@register
class Regression(Objective):
    """The chunk itself, from zeros at time 0, by squared error."""

    def loss(self, network: ChunkNetwork, chunks: Tensor, valid: Tensor, seen: Tensor) -> Tensor:
        times = chunks.new_zeros(len(chunks))
        return _mean_square(network(torch.zeros_like(chunks), times, seen) - chunks, valid)


@register
class TwoStepRegression(Objective):
    """MIP, the minimal iterative policy (arXiv 2512.01809): the chunk from zeros, and from a noisy chunk.

    The second input is `t a + (1 - t) z` at time t, with a the chunk and z noise.

    Args:
        time: t, in (0, 1); 0.9 in the paper.
    """

    def __init__(self, time: float = 0.9) -> None:
        if not 0 < time < 1:
            raise PolicyError(f"policy.objective.time must lie between 0 and 1, not {time}.")
        self.time = time

    def loss(self, network: ChunkNetwork, chunks: Tensor, valid: Tensor, seen: Tensor) -> Tensor:
        first = Regression().loss(network, chunks, valid, seen)
        noisy = self.time * chunks + (1 - self.time) * torch.randn_like(chunks)
        times = torch.full_like(chunks[:, 0, 0], self.time)
        return first + _mean_square(network(noisy, times, seen) - chunks, valid)


@register
class FlowMatching(Objective):
    """The velocity `a - z` of straight lines from noise z at time 0 to chunks a at time 1.

    Lipman et al., "Flow matching for generative modeling" (arXiv 2210.02747), with the linear path.
    """

    def loss(self, network: ChunkNetwork, chunks: Tensor, valid: Tensor, seen: Tensor) -> Tensor:
        noise = torch.randn_like(chunks)
        times = torch.rand_like(chunks[:, 0, 0])
        t = times[:, None, None]
        return _mean_square(network((1 - t) * noise + t * chunks, times, seen) - (chunks - noise), valid)


@register
class Diffusion(Objective):
    """What diffusers' DDPM scheduler has mixed into the chunk at a random step, or the chunk itself.

    Ho et al., "Denoising diffusion probabilistic models" (arXiv 2006.11239); Chi et al., "Diffusion policy"
    (arXiv 2303.04137). The network's time is the step's share of all.

    With `epsilon` the network says the noise, as in both papers. At a noisy step its error is an error of the
    chunk that is `sqrt((1 - bar) / bar)` times as large, bar being the chunk's share of variance: 3 times at
    step 80 of 100, and the loss hardly shows it. So it takes long training. `sample` says the chunk at every
    step; `v_prediction` stands between them (Salimans and Ho, arXiv 2202.00512).

    Args:
        train_steps: of the noise schedule.
        schedule: how noise grows; the squared cosine is Diffusion Policy's.
        prediction_type: what the network says, in diffusers' words.

    Raises:
        PolicyError: for another schedule or prediction.
    """

    def __init__(
        self,
        train_steps: int = 100,
        schedule: NoiseSchedule = "squaredcos_cap_v2",
        prediction_type: PredictionType = "epsilon",
    ) -> None:
        # Only training and this family need diffusers, which is slow to import.
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if prediction_type not in get_args(PredictionType):
            known = ", ".join(get_args(PredictionType))
            raise PolicyError(
                f"policy.objective.prediction_type must be one of {known}, not {prediction_type!r}."
            )
        try:
            # By name: diffusers records what is given by place as not given.
            scheduler = DDPMScheduler(num_train_timesteps=train_steps, beta_schedule=schedule)
        except NotImplementedError as error:
            raise PolicyError(f"policy.objective.schedule: diffusers knows no {schedule!r}.") from error
        self.scheduler: Any = scheduler  # its types say IntTensor
        self.train_steps, self.schedule = train_steps, schedule
        self.prediction_type: PredictionType = prediction_type

    def loss(self, network: ChunkNetwork, chunks: Tensor, valid: Tensor, seen: Tensor) -> Tensor:
        noise = torch.randn_like(chunks)
        steps = torch.randint(self.train_steps, (len(chunks),), device=chunks.device)
        noisy = self.scheduler.add_noise(chunks, noise, steps)
        if self.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(chunks, noise, steps)
        else:
            target = noise if self.prediction_type == "epsilon" else chunks
        return _mean_square(network(noisy, steps / self.train_steps, seen) - target, valid)


def _mean_square(errors: Tensor, valid: Tensor) -> Tensor:
    """Mean of squared errors `(B, H, A)` over valid steps."""
    return (errors.square().mean(-1) * valid).sum() / valid.sum()
