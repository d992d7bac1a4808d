"""The contract of engines: what they are told, what they give back, and what is done for all of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fibo_robot.envs.errors import EvaluationError, RolloutError
from fibo_robot.envs.rollouts.action_trace import ActionTrace
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.engine import Engine, Finished, Plan, scene_digest
from fibo_robot.envs.rollouts.episodes import EVAL_FILE, Episode, Session
from fibo_robot.envs.rollouts.identity import policy_device
from fibo_robot.envs.rollouts.workers.engine import WorkerEngine
from fibo_robot.interfaces import Policy
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyTask

SEEDS = range(200, 204)


class LockstepEngine:
    """All worlds in this process, one step of every world after the other: another engine, not a worker."""

    name, simulation, reproducible = "lockstep", "mujoco", True

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.account: Session | None = None
        self.closed = 0

    def open(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, policy: Policy, seeds: Sequence[int], keep: Callable[[Finished], None]) -> None:
        plan = self.plan
        assert plan is not None
        policy.reset(seeds)
        worlds = {seed: plan.task.make_env(list(policy.shape_meta.obs)) for seed in seeds}
        seen = {seed: world.reset(seed=seed)[0] for seed, world in worlds.items()}
        scenes = {seed: scene_digest(world.scene()) for seed, world in worlds.items()}
        steps = policy.shape_meta.n_obs_steps
        for seed, world in worlds.items():
            batch = {key: torch.from_numpy(np.stack([seen[seed][key]] * steps))[None] for key in seen[seed]}
            for action in policy.act(batch, [seed])[0].numpy():
                world.advance(action)
            actions = ActionTrace(seed, 3, np.zeros((3, 2), np.float32), {})
            kept = actions if seed in plan.videos else None
            keep(Finished(Episode(seed, length=3, scene=scenes[seed]), actions=kept))
        policy.forget(seeds)
        self.account = Session(1.0, 3 * len(seeds), len(seeds), 0, self.name)

    def session(self) -> Session | None:
        return self.account

    def close(self) -> None:
        self.closed += 1


_engines: tuple[Engine, Engine] = LockstepEngine(), WorkerEngine()  # type checkers see that both follow it


def test_an_engine_of_another_kind_takes_the_place_of_workers(tmp_path: Path) -> None:
    engine = LockstepEngine()
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2)
    evaluation = rollout(policy, ToyTask(), SEEDS, engine=engine, output=tmp_path, videos=1)
    assert [episode.seed for episode in evaluation.episodes] == list(SEEDS)
    assert [session.engine for session in evaluation.sessions] == ["lockstep"]
    assert engine.closed == 1 and not policy.generators
    # What lies on the disk is the caller's, for any engine.
    assert evaluation.episodes[0].action_trace == "action_traces/seed_000200.json"
    assert (tmp_path / "action_traces" / "seed_000200.json").is_file()
    # The start of an episode is the task's, so episodes of two engines are pairs.
    workers = rollout(ToyPolicy(ToyTask().shape_meta(), noise=0.2), ToyTask(), SEEDS, workers=1)
    assert [e.scene for e in evaluation.episodes] == [e.scene for e in workers.episodes]


def test_an_evaluation_is_not_continued_in_another_simulation(tmp_path: Path) -> None:
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2)
    rollout(policy, ToyTask(), SEEDS[:1], engine=LockstepEngine(), output=tmp_path)
    other = LockstepEngine()
    other.simulation = "warp"
    with pytest.raises(EvaluationError, match="another rollout"):
        rollout(policy, ToyTask(), SEEDS, engine=other, output=tmp_path, resume=True)


def test_an_engine_is_closed_when_it_fails(tmp_path: Path) -> None:
    class Failing(LockstepEngine):
        def run(self, policy: Policy, seeds: Sequence[int], keep: Callable[[Finished], None]) -> None:
            keep(Finished(Episode(seeds[0])))
            raise RolloutError("the device is lost")

    engine = Failing()
    with pytest.raises(RolloutError, match="the device is lost"):
        rollout(ToyPolicy(ToyTask().shape_meta()), ToyTask(), SEEDS, engine=engine, output=tmp_path)
    assert engine.closed == 1
    assert (tmp_path / "episodes.jsonl").read_text().count('"episode"') == 1
    with pytest.raises(ValueError, match="local or ray"):
        rollout(ToyPolicy(ToyTask().shape_meta()), ToyTask(), SEEDS, engine="warp")  # pyright: ignore[reportArgumentType]


def test_a_policy_holds_nothing_when_its_episodes_are_over(tmp_path: Path) -> None:
    task = ToyTask(faults=(Fault(SEEDS[1], "raise", str(tmp_path), times=99),))
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2)
    evaluation = rollout(policy, task, SEEDS, workers=1, batch_size=3)
    assert len(evaluation.errors) == 1  # one lost for good, the others finished, and two rows of padding
    assert policy.generators == {}


class DevicePolicy(ToyPolicy):
    """Wants its observations in the only place that every machine has beside the CPU: nowhere."""

    device = torch.device("meta")

    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        assert {tensor.device.type for tensor in obs.values()} == {"meta"}
        assert obs["top_image"].dtype == torch.uint8
        return torch.zeros(len(episodes), self.shape_meta.n_action_steps, self.shape_meta.action.dim)


def test_observations_go_to_the_policys_device() -> None:
    policy = DevicePolicy(ToyTask().shape_meta())
    evaluation = rollout(policy, ToyTask(), SEEDS[:1], workers=1)
    assert evaluation.episodes[0].error is None
    assert evaluation.policy["device"] == "meta"
    assert policy_device(ToyPolicy(ToyTask().shape_meta())) == torch.device("cpu")
    assert policy_device(ToyPolicy(ToyTask().shape_meta()).to("meta")) == torch.device("meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_policy_on_the_gpu_gets_observations_there_and_its_actions_reach_the_workers() -> None:
    class GpuPolicy(ToyPolicy):
        def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
            assert all(tensor.is_cuda for tensor in obs.values())
            return super().act({key: value.cpu() for key, value in obs.items()}, episodes).cuda()

        device = torch.device("cuda")

    policy = GpuPolicy(ToyTask().shape_meta())
    assert rollout(policy, ToyTask(), SEEDS[:2], workers=1).env_steps_per_s > 0


def test_scene_digests_differ_with_any_number_and_any_name() -> None:
    scene = {"state": np.arange(3.0), "cube_size": np.full(3, 0.02)}
    digest = scene_digest(scene)
    assert digest == scene_digest(dict(reversed(scene.items())))
    larger = {**scene, "cube_size": np.full(3, np.nextafter(0.02, 1))}
    renamed = {"state": scene["state"], "size": scene["cube_size"]}
    assert len({digest, scene_digest(larger), scene_digest(renamed)}) == 3


def test_eval_json_says_what_was_evaluated(tmp_path: Path) -> None:
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2)
    rollout(policy, ToyTask(), SEEDS[:1], workers=1, output=tmp_path, policy_info={"checkpoint": "a"})
    values = json.loads((tmp_path / EVAL_FILE).read_text())
    assert values["policy"]["class"] == "ToyPolicy" and values["policy"]["checkpoint"] == "a"
    assert len(values["policy"]["weights"]) == 32
    assert values["rollout"]["simulation"] == "mujoco" and values["rollout"]["reproducible"] is True
    assert values["sessions"][0]["renderers"] == ["numpy"]
    assert values["task"]["name"] == "toy" and values["other_task"] == {}
    (row,) = values["per_episode"]
    assert list(row["object_positions"]) == ["target", "point"]
    generator = np.random.default_rng(SEEDS[0])
    _, target = generator.uniform(-1, 1, (2, 2))
    assert row["object_positions"]["target"] == [*target.tolist(), 0.0]
