"""Every family of policies, tiny, built from its own config file."""

from collections.abc import Sequence
from functools import cache

import torch
from omegaconf import DictConfig, OmegaConf

from fibo_robot.envs.tasks import get_task
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.training.build import build
from fibo_robot.training.config import compose_config

FAMILIES = ("act", "bc", "bc_gmm", "bc_rnn", "bc_transformer", "diffusion", "flow", "mip")
SMALL = {
    "act": ["policy.width=32", "policy.encoder_layers=1", "policy.dropout=0", "policy.kl_weight=0.1"],
    "bc_gmm": ["policy.head.hidden=[64]"],
    "bc_rnn": ["policy.hidden=32", "data.action_horizon=4"],
    "bc_transformer": ["policy.width=32", "policy.layers=1", "policy.head.hidden=[32]", "policy.dropout=0"],
    "diffusion": ["policy.objective.train_steps=20", "policy.sampler.steps=10"],
}
NETWORK = ["network=mlp", "network.width=128", "network.layers=2", "network.time_features=16"]


def small(name: str) -> list[str]:
    """Overrides that choose a family and make it tiny."""
    steps = [] if name == "bc_rnn" else ["data.action_horizon=4", "data.n_action_steps=2"]
    return [f"policy={name}", *SMALL.get(name, []), *NETWORK, *steps]


@cache  # composing takes longer than most of what is tested
def config_of(name: str, *overrides: str) -> DictConfig:
    """The config of a tiny family on vectors; not to be changed."""
    return compose_config(["experiment=lift_bc", "data.path=none", *small(name), *overrides])


def shapes(config: DictConfig, action: ActionSpec | None = None) -> ShapeMeta:
    """Two vectors seen, over the config's horizons."""
    obs = {"position": ObservationSpec((3,), "low_dim"), "object": ObservationSpec((4,), "low_dim")}
    data = config.data
    return ShapeMeta(
        obs, action or ActionSpec.deltas(), data.n_obs_steps, data.action_horizon, data.n_action_steps
    )


def create(name: str, *overrides: str, action: ActionSpec | None = None) -> ChunkPolicy:
    """A tiny policy that has seen statistics, always with the same weights."""
    config = config_of(name, *overrides)
    torch.manual_seed(0)
    policy = build(config.policy, shape_meta=shapes(config, action))
    assert isinstance(policy, ChunkPolicy)
    dim = policy.shape_meta.action.dim
    actions = torch.rand(50, dim) * 2 - 1
    policy.fit_normalizer({"position": torch.randn(50, 3), "object": torch.randn(50, 4), "action": actions})
    return policy.eval()


def with_pictures(name: str, *overrides: str, keys: Sequence[str] = ("agentview_image",)) -> ChunkPolicy:
    """A tiny policy on Lift's cameras and the hand's position, always with the same weights."""
    config = config_of(name, *overrides)
    data = config.data
    meta = get_task("lift").shape_meta(
        [*keys, "robot0_eef_pos"], data.n_obs_steps, data.action_horizon, data.n_action_steps
    )
    torch.manual_seed(0)
    policy = build(config.policy, shape_meta=meta)
    policy.fit_normalizer({"robot0_eef_pos": torch.randn(50, 3), "action": torch.rand(50, 7) * 2 - 1})
    return policy.eval()


def observations(policy: ChunkPolicy, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """What it sees when it decides, or in a training sample of sequences."""
    generator = torch.Generator().manual_seed(seed)
    meta = policy.shape_meta
    steps = meta.action_horizon if policy.window == "sequence" and policy.training else meta.n_obs_steps
    return {
        key: torch.randn(batch, steps, *spec.shape, generator=generator)
        if spec.kind == "low_dim"
        else torch.randint(0, 256, (batch, steps, *spec.shape), dtype=torch.uint8, generator=generator)
        for key, spec in meta.obs.items()
    }


def saved_config(name: str, *overrides: str) -> dict:
    """The config as a checkpoint has it."""
    config = OmegaConf.merge(config_of(name, *overrides), {"run_dir": "none"})
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain
