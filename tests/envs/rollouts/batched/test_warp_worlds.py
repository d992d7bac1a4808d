"""MuJoCo Warp under the batched engine: the task's own starts and pictures, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rendering.settings import RendererError, RenderQuality
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.tasks import get_task
from fibo_robot.envs.warp import StartStates, runtime
from fibo_robot.envs.warp.errors import WarpError
from tests.envs.rollouts.test_rollout_command import EPISODES, FIRST_SEED, save_policy
from tests.envs.toy_task import ToyTask

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]
CPU = torch.device("cpu")
LIFT = get_task("lift", renderer="warp", image_size=32).resolved()


def fibo(policy: Path, output: Path, *more: str) -> Evaluation:
    """Roll out, and read the result."""
    numbers = ["--episodes", str(EPISODES), "--seed", str(FIRST_SEED), "--batch-size", "1"]
    command = ["rollout", str(policy), "--output", str(output), "--device", "cpu", *numbers, *more]
    CliRunner().invoke(app, command, catch_exceptions=False)
    return Evaluation.load(output)


def test_episodes_begin_as_in_processes_and_do_not_depend_on_the_number_of_worlds(tmp_path: Path) -> None:
    policy = save_policy(tmp_path / "policy")
    local = fibo(policy, tmp_path / "local", "--workers", "1")
    worlds = [
        fibo(policy, tmp_path / str(count), "--engine", "warp", "--worlds", str(count), "--videos", "1")
        for count in (2, 4)
    ]
    for evaluation in worlds:
        assert not evaluation.errors
        for ours, theirs in zip(evaluation.episodes, local.episodes, strict=True):
            assert (ours.seed, ours.scene, ours.length) == (theirs.seed, theirs.scene, theirs.length)
            assert ours.object_positions == theirs.object_positions
    # On Warp's CPU device an episode repeats bit for bit, which `reproducible` promises.
    first, second = ([episode.trace for episode in evaluation.episodes] for evaluation in worlds)
    assert first == second and len(set(first)) == EPISODES
    settings = json.loads((tmp_path / "2" / "eval.json").read_text())["rollout"]
    assert settings["simulation"].startswith("mujoco_warp 3.") and settings["reproducible"] is True
    film = worlds[0].episodes[0].video
    assert film is not None and (tmp_path / "2" / film).stat().st_size > 500
    assert (tmp_path / "2" / "report.html").exists()


def test_worlds_are_seen_and_filmed_as_the_single_world_is() -> None:
    from fibo_robot.envs.rollouts.batched.warp import WarpWorlds

    keys = ("robot0_eye_in_hand_image", "agentview_image", "object")
    seeds = (7, 8)
    worlds = WarpWorlds(LIFT, 3, keys, CPU)
    starts = worlds.begin([2, 0], seeds)
    seen = worlds.observe()
    film = worlds.render("agentview", 48, 48, [0, 2])
    env = LIFT.make_env(keys)
    try:
        for world, seed, start in zip((2, 0), seeds, starts, strict=True):
            expected, _ = env.reset(seed=seed)
            np.testing.assert_array_equal(start.scene["state"], env.scene()["state"])
            np.testing.assert_allclose(seen["object"][world], expected["object"], atol=1e-5)
            for key in keys[:2]:
                # Positions in float32 move a few pixels of an edge.
                difference = np.abs(seen[key][world].numpy().astype(int) - expected[key])
                assert (difference > 8).mean() < 0.01, key
            alone = env.render_image("agentview", 48, 48).astype(int)
            filmed = film[(0, 2).index(world)].numpy()
            assert filmed.dtype == np.uint8 and (np.abs(filmed - alone) > 8).mean() < 0.01
    finally:
        env.close()
        worlds.close()


def test_too_many_worlds_are_refused_before_start_states_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ensure(*arguments: object) -> None:
        raise AssertionError("start states take long")

    monkeypatch.setattr(StartStates, "ensure", ensure)
    monkeypatch.setattr(runtime, "_free_memory", lambda device: 2**30)
    policy = save_policy(tmp_path / "policy")
    with pytest.raises(WarpError, match=r"4 worlds need about .* take at most 0 worlds"):
        fibo(policy, tmp_path / "out", "--engine", "warp", "--worlds", "4")
    assert not (tmp_path / "out").exists()


def test_other_pictures_and_other_tasks_are_refused() -> None:
    from fibo_robot.envs.rollouts.batched.warp import WarpWorlds

    opengl = replace(LIFT, renderer="egl")
    with pytest.raises(RolloutError, match="pictures drawn by egl"):
        WarpWorlds(opengl, 2, ("agentview_image",), CPU)
    old = replace(LIFT, quality=RenderQuality(shading=1))
    with pytest.raises(RendererError, match="version 1 of Warp's lights"):
        WarpWorlds(old, 2, ("agentview_image",), CPU)
    with pytest.raises(RolloutError, match="robosuite's tasks, not toy"):
        WarpWorlds(ToyTask(), 2, ("position",), CPU)
