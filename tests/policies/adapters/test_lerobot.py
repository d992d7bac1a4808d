"""Policies of ours for LeRobot's features, and LeRobot's checkpoints of them; LeRobot is not needed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fibo_robot.errors import FiboError
from fibo_robot.policies import load_policy
from fibo_robot.policies.adapters.lerobot import LeRobotError, Recipe, make_recipe
from fibo_robot.training.checkpoint import CheckpointError
from tests.video.command_line import run

SHAPES = {
    "observation.images.agentview": (3, 84, 84),
    "observation.images.robot0_eye_in_hand": (3, 84, 84),
    "observation.state": (9,),
    "observation.environment_state": (10,),
    "action": (7,),
}
OVERRIDES = ["policy=bc_gmm", "encoder=vit_micro", "attention=fibottention"]


def stats() -> dict[str, dict[str, list[float]]]:
    generator = np.random.default_rng(0)
    found = {}
    for key in ("observation.state", "observation.environment_state", "action"):
        values = generator.uniform(-0.9, 0.9, (50, SHAPES[key][0]))
        found[key] = {n: getattr(values, n)(0).tolist() for n in ("min", "max", "mean", "std")}
    return found


def batch(time: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    shapes = {key: (2, *time, *shape) for key, shape in SHAPES.items() if key != "action"}
    return {
        key: torch.rand(shape, generator=torch.Generator().manual_seed(0)) for key, shape in shapes.items()
    }


def test_state_is_split_into_the_tasks_vectors() -> None:
    recipe = make_recipe(overrides=OVERRIDES, shapes=SHAPES, task="lift")
    assert recipe.state == {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
    assert "object" not in recipe.shape_meta.obs  # true state is for those who ask for it
    seen = make_recipe(overrides=OVERRIDES, shapes=SHAPES, task="lift", sees_objects=True)
    assert seen.shape_meta.obs["object"].shape == (10,)
    given = batch()
    found = seen.observations(given)
    assert torch.equal(found["robot0_eef_quat"][:, 0], given["observation.state"][:, 3:7])
    assert found["agentview_image"].shape == (2, 1, 3, 84, 84)
    expected = (given["observation.images.agentview"] * 255).round()
    assert torch.equal(found["agentview_image"][:, 0].float(), expected)
    assert seen.observations(batch((2,)))["object"].shape == (2, 2, 10)


def test_normaliser_has_the_statistics_of_the_data() -> None:
    recipe = make_recipe(overrides=OVERRIDES, shapes=SHAPES, task="lift")
    policy, known = recipe.build(), stats()
    policy.fit_normalizer(recipe.statistics(known))
    mean, std = (torch.tensor(known["observation.state"][name]) for name in ("mean", "std"))
    normal = policy.normalizer.normalize("robot0_eef_pos", (mean + 2 * std)[:3])
    torch.testing.assert_close(normal, torch.full((3,), 2.0), rtol=1e-4, atol=1e-4)
    for name, value in (("min", -1.0), ("max", 1.0)):
        ends = policy.normalizer.normalize("action", torch.tensor(known["action"][name]))
        torch.testing.assert_close(ends, torch.full((7,), value), rtol=1e-4, atol=1e-4)


def test_other_robots_need_no_task_of_ours() -> None:
    shapes = {"observation.image": (3, 96, 96), "observation.state": (2,), "action": (2,)}
    known = {"action": {"min": [0.0, 3.0], "max": [10.0, 3.0]}}
    recipe = make_recipe(overrides=OVERRIDES, shapes=shapes, stats=known)
    assert list(recipe.shape_meta.obs) == ["image_image", "state"]
    assert recipe.shape_meta.action.low == (0.0, 2.0) and recipe.shape_meta.action.high == (10.0, 4.0)
    with pytest.raises(LeRobotError, match="nothing bounds"):
        make_recipe(overrides=OVERRIDES, shapes=shapes)
    with pytest.raises(LeRobotError, match="2 numbers, the task lift gives 9"):
        make_recipe(overrides=OVERRIDES, shapes=shapes, stats=known, task="lift")


@pytest.mark.parametrize("family", ["act", "bc_transformer", "diffusion", "flow", "mip"])
def test_every_family_that_sees_the_past_trains_on_lerobots_batches(family: str) -> None:
    chosen = [f"policy={family}", *OVERRIDES[1:]]
    recipe = make_recipe(overrides=chosen, shapes=SHAPES, task="lift", n_obs_steps=2)
    policy = recipe.build()
    policy.fit_normalizer(recipe.statistics(stats()))
    actions, valid = torch.rand(2, 8, 7), torch.ones(2, 8, dtype=torch.bool)
    loss = policy.loss(recipe.observations(batch((2,))), actions, valid)
    loss.backward()
    assert loss.isfinite()


def test_what_lerobot_saves_is_loaded_like_a_run_directory(tmp_path: Path) -> None:
    recipe = make_recipe(overrides=OVERRIDES, shapes=SHAPES, task="lift")
    assert Recipe.from_json(recipe.to_json()) == recipe
    policy = recipe.build()
    policy.fit_normalizer(recipe.statistics(stats()))
    config = {"type": "fibo", "recipe": recipe.to_json()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(
        {f"policy.{key}": value for key, value in policy.state_dict().items()}, tmp_path / "model.safetensors"
    )
    loaded = load_policy(tmp_path)
    assert loaded.meta["task"]["name"] == "lift"
    observations = recipe.observations(batch())
    actions = []
    for each in (policy.eval(), loaded):
        each.reset([1, 2])
        actions.append(each.act(observations, [1, 2]))
    assert torch.equal(*actions) and actions[0].shape == (2, 4, 7)


def test_rollout_of_a_policy_for_another_robot_asks_for_a_task(tmp_path: Path) -> None:
    shapes = {"observation.state": (9,), "action": (7,)}
    recipe = make_recipe(overrides=[*OVERRIDES, "policy.encoder=null"], shapes=shapes, stats=stats())
    policy = recipe.build()
    (tmp_path / "config.json").write_text(json.dumps({"type": "fibo", "recipe": recipe.to_json()}))
    weights = {f"policy.{key}": value for key, value in policy.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FiboError, match="which task it is for"):
        run("rollout", tmp_path, "--device", "cpu")


def test_damaged_checkpoints_and_foreign_code_are_refused(tmp_path: Path) -> None:
    recipe = make_recipe(overrides=OVERRIDES, shapes=SHAPES, task="lift")
    (tmp_path / "config.json").write_text(json.dumps({"type": "fibo", "recipe": recipe.to_json()}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(tmp_path)
    save_file({"policy.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"type": "fibo", "recipe": "{}"}))
    with pytest.raises(LeRobotError, match="recipe"):
        load_policy(tmp_path)
    foreign = Recipe({"_target_": "os.system"}, recipe.shape_meta, {}, {}, None)
    (tmp_path / "config.json").write_text(json.dumps({"type": "fibo", "recipe": foreign.to_json()}))
    with pytest.raises(CheckpointError, match=r"os\.system, which is not a known model"):
        load_policy(tmp_path)
