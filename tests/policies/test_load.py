"""Loading a policy needs no trainer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fibo_robot.envs.tasks import get_task
from fibo_robot.policies import load_policy
from fibo_robot.policies.models.bc import BehaviourCloning
from fibo_robot.policies.models.heads import GaussianMixtureHead
from fibo_robot.training.checkpoint import CheckpointError, save_checkpoint

KEYS = ["robot0_eef_pos"]
CONFIG = {
    "_target_": "fibo_robot.policies.models.bc.BehaviourCloning",
    "encoder": None,
    "head": {
        "_target_": "fibo_robot.policies.models.heads.GaussianMixtureHead",
        "_partial_": True,
        "hidden": [16],
    },
}


def save(folder: Path, **config: object) -> Path:
    shape_meta = get_task("lift").shape_meta(KEYS, action_horizon=2)
    policy = BehaviourCloning(shape_meta, None, lambda **sizes: GaussianMixtureHead(**sizes, hidden=(16,)))
    policy.fit_normalizer({"robot0_eef_pos": torch.randn(9, 3), "action": torch.rand(9, 7)})
    meta = {"kind": "policy", "shape_meta": shape_meta.to_dict()}
    save_checkpoint(folder, policy.state_dict(), {"policy": {**CONFIG, **config}}, meta)
    return folder


def test_loading_does_not_import_the_trainer(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from fibo_robot.policies import load_policy\n"
        f"policy = load_policy({str(save(tmp_path / 'run'))!r})\n"
        "assert type(policy).__name__ == 'BehaviourCloning'\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'lightning', 'pytorch_lightning', 'lightning_fabric', 'torchmetrics', 'diffusers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("place", ["_target_", "encoder", "head"])
def test_foreign_code_is_refused_wherever_it_is_named(tmp_path: Path, place: str) -> None:
    marker = tmp_path / "executed"
    call = {"_target_": "os.system", "command": f"touch {marker}"}
    run = save(tmp_path / "run", **(call if place == "_target_" else {place: {**call, "_partial_": True}}))
    with pytest.raises(CheckpointError, match=r"asks to call os\.system, which is not a known model"):
        load_policy(run)
    assert not marker.exists()


def test_something_else_than_a_policy_is_refused(tmp_path: Path) -> None:
    run = save(tmp_path / "run", _target_="fibo_robot.policies.models.heads.GaussianMixtureHead")
    with pytest.raises(Exception, match=r"Cannot build|where a policy should be"):
        load_policy(run)


def test_another_versions_shapes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    run = save(tmp_path / "run")
    text = (run / "meta.json").read_text()
    (run / "meta.json").write_text(text.replace('"action": {', '"action_before": {'))
    with pytest.raises(Exception, match="Train the policy again"):
        load_policy(run)
