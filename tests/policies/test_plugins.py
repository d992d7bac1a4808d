"""An installed package adds a policy and an attention by declaring them; nothing else becomes callable."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from fibo_robot import plugins
from fibo_robot.attention.registry import ATTENTIONS, AttentionConfig, create_attention
from fibo_robot.encoders import ImageEncoder
from fibo_robot.errors import FiboError
from fibo_robot.policies import load_policy
from fibo_robot.training.checkpoint import CheckpointError
from fibo_robot.training.config import compose_config
from fibo_robot.training.overrides import train_from_overrides

PACKAGE = '''
import torch
from fibo_robot.attention.modules import SoftmaxAttention
from fibo_robot.plugins import register
from fibo_robot.policies.models.base import ChunkPolicy


@register
class Part(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer = torch.nn.LazyLinear(size)

    def forward(self, features):
        return self.layer(features)


class Regression(ChunkPolicy):
    """Predicts one chunk by least squares."""

    def __init__(self, shape_meta, encoder, observation, width=24, steps=(1, 2)):
        super().__init__(shape_meta, encoder, observation)
        shape = (shape_meta.action_horizon, self.actions.dim)
        sizes = self.observation.out_features, width, shape[0] * shape[1]
        self.network = torch.nn.Sequential(
            torch.nn.Linear(*sizes[:2]), torch.nn.Linear(*sizes[1:]), torch.nn.Unflatten(1, shape)
        )

    def chunk_loss(self, features, actions, valid):
        return ((self.network(features) - actions) ** 2).mean(-1)[valid].mean()

    def predict(self, features, noise):
        return self.network(features) + 0.1 * noise.normal(*self.network[-1].unflattened_size)


class OtherAttention(SoftmaxAttention):
    name = "other"
'''
ENTRY_POINTS = """
[fibo_robot.policies]
regression = fibo_test_plugin:Regression
broken = fibo_test_plugin.absent:Policy

[fibo_robot.attentions]
other = fibo_test_plugin:OtherAttention
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of that kind, as pip would have installed it."""
    site = tmp_path / "site-packages"
    metadata = site / "fibo_test_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "fibo_test_plugin.py").write_text(PACKAGE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fibo-test-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(plugins, "_registered", set(plugins._registered))
    monkeypatch.delitem(sys.modules, "fibo_test_plugin", raising=False)
    monkeypatch.setattr("fibo_robot.attention.registry.ATTENTIONS", dict(ATTENTIONS))
    yield
    options = ConfigStore.instance().repo
    options.get("policy", {}).pop("regression.yaml", None)
    options.get("attention", {}).pop("other.yaml", None)


def overrides(demonstrations: Path, run_dir: Path) -> list[str]:
    return [
        "experiment=lift_bc",
        "policy=regression",
        "policy.width=12",
        "attention=other",
        f"data.path={demonstrations}",
        f"run_dir={run_dir}",
        "data.obs_keys=[robot0_eye_in_hand_image,robot0_eef_pos]",
        "data.batch_size=4",
        "data.steps_per_epoch=2",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "logger=none",
    ]


@pytest.mark.usefixtures("installed")
def test_a_foreign_policy_is_trained_saved_and_loaded_by_name(demonstrations: Path, tmp_path: Path) -> None:
    run_dir = train_from_overrides(overrides(demonstrations, tmp_path / "run"))
    policy = load_policy(run_dir)
    assert type(policy).__name__ == "Regression"
    assert policy.get_submodule("network.0").out_features == 12
    (encoder,) = policy.observation.encoders.values()
    assert isinstance(encoder, ImageEncoder) and encoder.attention.name == "other"
    policy.reset([3])
    obs = {
        "robot0_eye_in_hand_image": torch.zeros(1, 1, 3, 84, 84, dtype=torch.uint8),
        "robot0_eef_pos": torch.zeros(1, 1, 3),
    }
    assert not torch.equal(policy.act(obs, [3]), policy.act(obs, [3])), "it draws noise"


@pytest.mark.usefixtures("installed")
def test_a_plugins_options_are_the_defaults_of_its_class() -> None:
    policy = compose_config(["experiment=lift_bc", "policy=regression"]).policy
    assert OmegaConf.to_container(policy, resolve=False) == {
        "_target_": "fibo_test_plugin.Regression",
        "encoder": "${encoder}",
        "observation": "${observation}",
        "width": 24,
        "steps": [1, 2],
    }
    with pytest.raises(FiboError, match=r"policy\.widht'.*Did you mean 'policy\.width'"):
        compose_config(["experiment=lift_bc", "policy=regression", "policy.widht=3"])


@pytest.mark.usefixtures("installed")
def test_names_of_plugins_are_suggested_and_a_broken_one_is_named() -> None:
    with pytest.raises(FiboError, match="Did you mean 'regression'"):
        compose_config(["experiment=lift_bc", "policy=regresion"])
    with pytest.raises(plugins.PluginError, match=r"'broken' of the installed package fibo-test-plugin"):
        compose_config(["experiment=lift_bc", "policy=broken"])


@pytest.mark.usefixtures("installed")
def test_a_checkpoint_may_name_what_an_installed_package_declares_and_then_its_parts() -> None:
    assert not plugins.is_registered("fibo_test_plugin.Part")
    assert "fibo_test_plugin" not in sys.modules
    assert plugins.is_registered("fibo_test_plugin.Regression")
    assert plugins.is_registered("fibo_test_plugin.Part")
    assert not plugins.is_registered("fibo_test_plugin.OtherAttention")
    assert not plugins.is_registered("fibo_test_plugin.torch")


@pytest.mark.usefixtures("installed")
def test_without_its_package_a_checkpoint_is_refused(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = train_from_overrides(overrides(demonstrations, tmp_path / "run"))
    monkeypatch.undo()  # uninstalls it
    with pytest.raises(
        CheckpointError, match=r"asks to call fibo_test_plugin\.Regression, which is not a known"
    ):
        load_policy(run_dir)


@pytest.mark.usefixtures("installed")
def test_a_foreign_attention_is_built_by_name() -> None:
    module = create_attention("other", 16, 2, layer_index=0, num_prefix_tokens=1)
    assert module(torch.randn(2, 5, 16)).shape == (2, 5, 16)
    assert AttentionConfig.parse("other").to_dict() == {"name": "other"}


def test_what_is_built_in_is_registered_and_nothing_around_it() -> None:
    for path in (
        "fibo_robot.policies.models.bc.BehaviourCloning",
        "fibo_robot.policies.models.heads.GaussianMixtureHead",
        "fibo_robot.policies.models.denoising.samplers.DDIM",
        "fibo_robot.policies.models.observation.encoder.ObservationEncoder",
        "fibo_robot.encoders.create_encoder",
        "fibo_robot.encoders.create_video_encoder",
    ):
        assert plugins.is_registered(path)
    for path in ("os.system", "fibo_robot.plugins.register", "fibo_robot.policies.models.bc.ChunkPolicy", ""):
        assert not plugins.is_registered(path)
