"""Worlds that advance together play the same episodes as workers with one world each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.batched.engine import BatchedEngine
from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv, BatchedStep
from fibo_robot.envs.rollouts.engine import Engine
from fibo_robot.envs.rollouts.workers.engine import EngineName
from fibo_robot.interfaces import ShapeMeta, Task
from tests.envs.rollouts.batched.toy_worlds import ToyWorlds, maker
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import ToyTask

SEEDS = range(200, 212)
TASK = ToyTask()
_engine: Engine = BatchedEngine(1, "cpu", maker())  # type checkers see that it follows the protocol


class Steering(ToyPolicy):
    """Without the network's part in its actions: on some machines its last bits depend on a row's place."""

    def __init__(self, shape_meta: ShapeMeta, noise: float = 0.2, nan_seed: int | None = None) -> None:
        super().__init__(shape_meta, noise, nan_seed)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)


def policy(shape_meta: ShapeMeta | None = None) -> ToyPolicy:
    return Steering(shape_meta or TASK.shape_meta())


def outcomes(evaluation: Evaluation) -> list[tuple]:
    """Everything about each episode that does not depend on the engine."""
    rows = []
    for e in evaluation.episodes:
        positions = {name: list(position) for name, position in e.object_positions.items()}
        tally = (e.success_once, e.success_at_end, e.sum_reward, e.max_reward, e.length, e.first_success)
        rows.append((e.seed, e.scene, e.trace, *tally, positions, e.error))
    return rows


@pytest.fixture(scope="module")
def reference() -> Evaluation:
    return rollout(policy(), TASK, SEEDS, workers=1, batch_size=4)


@pytest.mark.parametrize("worlds", [1, 5, 100])
def test_episodes_equal_those_of_workers_whatever_the_number_of_worlds(
    worlds: int, reference: Evaluation
) -> None:
    player = policy()
    evaluation = rollout(player, TASK, SEEDS, batch_size=4, engine=BatchedEngine(worlds, "cpu", maker()))
    assert outcomes(evaluation) == outcomes(reference)
    assert len({episode.length for episode in reference.episodes}) > 3  # worth comparing with
    assert not player.generators, "the policy still holds episodes that are over"
    assert {len(call) for call in player.calls} == {4}
    (session,) = evaluation.sessions
    assert session.workers == min(worlds, len(SEEDS)) and session.engine == "warp"
    assert session.env_steps == sum(episode.length for episode in evaluation.episodes)
    assert session.renderers == ("numpy",)


@pytest.mark.parametrize(("n_obs_steps", "n_action_steps"), [(1, 1), (3, 2), (2, 4)])
def test_histories_and_chunks_are_those_of_a_single_world(n_obs_steps: int, n_action_steps: int) -> None:
    class Remembering(Steering):
        """Acts on where the point was at its oldest observation, too."""

        def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
            return super().act(obs, episodes) + 0.5 * obs["position"][:, :1]

    meta = TASK.shape_meta(n_obs_steps, 4, n_action_steps)
    one = rollout(Remembering(meta, 0.2), TASK, SEEDS[:6], workers=1, batch_size=3)
    batched = BatchedEngine(3, "cpu", maker())
    many = rollout(Remembering(meta, 0.2), TASK, SEEDS[:6], batch_size=3, engine=batched)
    assert outcomes(many) == outcomes(one)


def test_a_free_world_takes_the_next_seed_and_all_are_looked_at_once_a_chunk() -> None:
    log: list[str] = []
    meta = TASK.shape_meta(n_obs_steps=1, n_action_steps=4)
    evaluation = rollout(policy(meta), TASK, SEEDS, engine=BatchedEngine(3, "cpu", maker(log=log)))
    assert log[:6] == ["made 3", "prepared 12", "200 in 0", "201 in 1", "202 in 2", "look"]
    first = min((-(-evaluation.by_seed()[seed].length // 4), seed) for seed in SEEDS[:3])
    # The world of the episode that was over first plays the fourth seed, from the look that ended it on.
    begun = log.index(f"203 in {first[1] - 200}")
    assert log[:begun].count("look") == first[0]
    chunks = sum(-(-episode.length // 4) for episode in evaluation.episodes)
    assert log.count("look") < chunks, "worlds looked one by one"
    rested = [int(event.removeprefix("rest ")) for event in log if event.startswith("rest")]
    assert sorted(rested) == [0, 1, 2], "a world was left running without an episode"


def test_an_invalid_world_is_played_again_among_fewer_and_then_given_up(
    reference: Evaluation, tmp_path: Path
) -> None:
    log: list[str] = []
    once, twice = SEEDS[1], SEEDS[4]
    engine = BatchedEngine(9, "cpu", maker({once: 1, twice: 2}, log))
    evaluation = rollout(policy(), TASK, SEEDS, batch_size=4, engine=engine, output=tmp_path)
    assert [event for event in log if event.startswith("made")] == ["made 9", "made 1"]
    assert log.count("closed") == 2
    (error,) = evaluation.errors
    assert error.seed == twice and not error.counts and len(error.worker_errors) == 2
    assert error.error == "The simulation failed 2 times. World 0 had too many contacts."
    again = evaluation.by_seed()[once]
    assert again.worker_errors == ("World 1 had too many contacts.",)
    expected = [row for row in outcomes(reference) if row[0] != twice]
    assert [row for row in outcomes(evaluation) if row[0] != twice] == expected
    # What was lost is tried again by a resumed rollout, which plays nothing else.
    log.clear()
    engine = BatchedEngine(9, "cpu", maker(log=log))
    resumed = rollout(policy(), TASK, SEEDS, batch_size=4, engine=engine, output=tmp_path, resume=True)
    assert log[:3] == ["made 1", "prepared 1", f"{twice} in 0"]
    assert outcomes(resumed) == outcomes(reference)


class Interrupting(Steering):
    """Presses Ctrl-C after some decisions."""

    patience = 4

    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        return super().act(obs, episodes)


def test_an_interrupted_rollout_keeps_what_is_finished_and_goes_on(
    reference: Evaluation, tmp_path: Path
) -> None:
    settings = {"batch_size": 4, "output": tmp_path, "policy_info": {"checkpoint": "a"}}
    stopped = Interrupting(TASK.shape_meta(), noise=0.2)
    stopped.patience = 16
    with pytest.raises(KeyboardInterrupt):
        rollout(stopped, TASK, SEEDS, engine=BatchedEngine(4, "cpu", maker()), **settings)
    assert not stopped.generators
    kept = (tmp_path / "episodes.jsonl").read_text().count('"episode"')
    assert 0 < kept < len(SEEDS)
    log: list[str] = []
    go_on = Interrupting(TASK.shape_meta(), noise=0.2)
    go_on.patience = 1000
    engine = BatchedEngine(4, "cpu", maker(log=log))
    resumed = rollout(go_on, TASK, SEEDS, engine=engine, resume=True, **settings)
    assert sum(" in " in event for event in log) == len(SEEDS) - kept
    assert outcomes(resumed) == outcomes(reference)
    assert len(resumed.sessions) == 2


class Greedy(ToyWorlds):
    """Worlds whose device has no room left after so many control steps."""

    error: Exception
    left = 50

    def advance(self, actions: Tensor) -> BatchedStep:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().advance(actions)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Failed to allocate 4096 bytes on device 'cuda:0'"),
        RuntimeError("Graph launch error: Warp CUDA error 2: out of memory (in function ...)"),
    ],
)
def test_a_full_device_is_one_sentence_and_what_is_finished_is_kept(
    error: Exception, reference: Evaluation, tmp_path: Path
) -> None:
    def make(task: Task, num_worlds: int, obs_keys: Sequence[str], device: torch.device) -> BatchedEnv:
        assert isinstance(task, ToyTask)
        worlds = Greedy(task, num_worlds, obs_keys, {}, [])
        worlds.error = error
        return worlds

    with pytest.raises(RolloutError, match=r"4 worlds and the policy do not fit .* Take fewer with --worlds"):
        rollout(policy(), TASK, SEEDS, batch_size=4, engine=BatchedEngine(4, "cpu", make), output=tmp_path)
    kept = (tmp_path / "episodes.jsonl").read_text().count('"episode"')
    assert 0 < kept < len(SEEDS)
    log: list[str] = []
    engine = BatchedEngine(4, "cpu", maker(log=log))
    resumed = rollout(policy(), TASK, SEEDS, batch_size=4, engine=engine, output=tmp_path, resume=True)
    assert sum(" in " in event for event in log) == len(SEEDS) - kept
    assert outcomes(resumed) == outcomes(reference)


def test_a_policy_that_gives_no_numbers_fails_its_own_episode_only(reference: Evaluation) -> None:
    player = Steering(TASK.shape_meta(), noise=0.2, nan_seed=SEEDS[2])
    evaluation = rollout(player, TASK, SEEDS, batch_size=4, engine=BatchedEngine(4, "cpu", maker()))
    (failed,) = evaluation.errors
    assert failed.seed == SEEDS[2] and failed.counts and failed.length == 0
    assert failed.error == "The policy (Steering) returned actions that are not finite."
    assert [row for row in outcomes(evaluation) if row[0] != SEEDS[2]] == [
        row for row in outcomes(reference) if row[0] != SEEDS[2]
    ]


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_films_and_action_traces_are_those_of_a_single_world(tmp_path: Path) -> None:
    engines: dict[str, EngineName | Engine] = {"one": "local", "many": BatchedEngine(3, "cpu", maker())}
    for name, engine in engines.items():
        player = Steering(TASK.shape_meta(), noise=0.2, nan_seed=SEEDS[3])
        evaluation = rollout(
            player, TASK, SEEDS, workers=1, batch_size=4, engine=engine, videos=5, output=tmp_path / name
        )
        assert sum(episode.video is not None for episode in evaluation.episodes) == 5
    one, many = (sorted((tmp_path / name).glob("*/seed_*")) for name in ("one", "many"))
    assert [path.name for path in one] == [path.name for path in many]
    assert {path.suffix for path in many} == {".mp4", ".json"}
    for first, second in zip(one, many, strict=True):
        if first.suffix == ".json":
            assert first.read_text() == second.read_text(), first.name
        else:
            np.testing.assert_array_equal(frames(first), frames(second), first.name)


def test_what_cannot_work_is_refused_in_a_sentence(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(RolloutError, match="this PyTorch finds no GPU"):
            BatchedEngine(4, "cuda", maker())
    lying = ToyTask(lying=True)
    with pytest.raises(RolloutError, match=r"gave top_image of shape \(2, 3, 8, 8\)"):
        rollout(policy(), lying, SEEDS[:2], engine=BatchedEngine(4, "cpu", maker()))
    refused = CliRunner().invoke(app, ["rollout", str(tmp_path), "--worlds", "4"])
    assert refused.exit_code == 2 and "--engine warp or ray" in " ".join(refused.output.split())
    with pytest.raises(ValueError, match="at least 1"):
        BatchedEngine(0, "cpu", maker())
    evaluation = rollout(policy(), TASK, SEEDS[:2], engine=BatchedEngine(2, "cpu", maker()))
    assert evaluation.rollout["simulation"] == "mujoco_warp on cpu" and evaluation.rollout["reproducible"]
