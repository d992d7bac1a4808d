"""How long each family of policies takes to decide, and whether it keeps up with the robot.

Policies are built from their configs with fresh weights: time does not depend on what was learnt. A decision
is a whole `act`: cropping, encoding, sampling, and the actions in the environment's units. At
`n_action_steps` actions a decision, a robot at 20 Hz waits `n_action_steps / 20` seconds for the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from fibo_robot.benchmarks.harness import interleave, quartiles
from fibo_robot.envs.tasks import get_task
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies import load  # noqa: F401  (its families register themselves)
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.training.build import build
from fibo_robot.training.config import compose_config, options_of

CONTROL_HZ = 20  # of robosuite's tasks


@dataclass(frozen=True)
class PolicyRow:
    """One family deciding for one batch.

    Attributes:
        case: the policy's name in the configs.
        batch: episodes that decide together.
        milliseconds: of one decision for all of them, median over rounds; `spread`: its quartiles.
        n_action_steps: actions that a decision is for.
        keeps_up: whether three of four decisions take no longer than the robot takes for those actions.
        parameters: of the policy, in millions.
        device: where it decides.
    """

    case: str
    batch: int
    milliseconds: float
    spread: tuple[float, float]
    n_action_steps: int
    keeps_up: bool
    parameters: float
    device: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def measure(
    names: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 64),
    overrides: Sequence[str] = (),
    rounds: int = 10,
    device: str = "cpu",
) -> list[PolicyRow]:
    """Time decisions on Lift's two cameras and proprioception, all families interleaved.

    Args:
        names: policies of the configs; None is all of them.
        batches: episodes that decide together.
        overrides: further settings of the configs, e.g. `network=transformer`.
        rounds: timed decisions of every case.
        device: `cpu` or `cuda`.
    """
    policies = {name: create(name, overrides, device) for name in names or options_of("policy")}
    cases: dict[str, Callable[[], object]] = {}
    for name, policy in policies.items():
        for batch in batches:
            obs = _observations(policy.shape_meta, batch, device)
            cases[f"{name} {batch}"] = partial(_decide, policy, obs)
    seconds = interleave(cases, rounds, warmup=1, device=device)
    return list(_rows(policies, batches, seconds, device))


def create(name: str, overrides: Sequence[str] = (), device: str = "cpu") -> ChunkPolicy:
    """The policy of that name as `experiment=lift_bc` makes it, with fresh weights, in evaluation mode."""
    config = compose_config(["experiment=lift_bc", "data.path=none", f"policy={name}", *overrides])
    data = config.data
    shape_meta = get_task("lift").shape_meta(
        data.obs_keys, data.n_obs_steps, data.action_horizon, data.n_action_steps
    )
    torch.manual_seed(0)
    policy = build(config.policy, shape_meta=shape_meta)
    assert isinstance(policy, ChunkPolicy)
    vectors = {key: torch.randn(8, *shape_meta.obs[key].shape) for key in shape_meta.keys("low_dim")}
    policy.fit_normalizer({**vectors, "action": torch.rand(8, shape_meta.action.dim) * 2 - 1})
    return policy.eval().to(device)


def _observations(shape_meta: ShapeMeta, batch: int, device: str) -> dict[str, torch.Tensor]:
    steps = shape_meta.n_obs_steps
    return {
        key: torch.randint(0, 256, (batch, steps, *spec.shape), dtype=torch.uint8, device=device)
        if spec.kind == "rgb"
        else torch.randn(batch, steps, *spec.shape, device=device)
        for key, spec in shape_meta.obs.items()
    }


def _decide(policy: ChunkPolicy, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The first decision of as many episodes as there are rows."""
    episodes = range(len(next(iter(obs.values()))))
    policy.reset(episodes)
    return policy.act(obs, episodes)


def _rows(
    policies: dict[str, ChunkPolicy], batches: Sequence[int], seconds: dict[str, list[float]], device: str
) -> Iterator[PolicyRow]:
    for name, policy in policies.items():
        steps = policy.shape_meta.n_action_steps
        for batch in batches:
            low, middle, high = (1000 * value for value in quartiles(seconds[f"{name} {batch}"]))
            yield PolicyRow(
                case=name,
                batch=batch,
                milliseconds=middle,
                spread=(low, high),
                n_action_steps=steps,
                keeps_up=high <= 1000 * steps / CONTROL_HZ,
                parameters=sum(p.numel() for p in policy.parameters()) / 1e6,
                device=device,
            )
