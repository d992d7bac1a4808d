"""Action traces hold what was done, and the numbers about decisions are those of the mixture."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fibo_robot.encoders import create_encoder
from fibo_robot.envs.results.attention.videos import attention_frames, record_attention, watch_episode
from fibo_robot.envs.results.evaluation import EvaluationError
from fibo_robot.envs.rollouts.action_trace import ActionTrace, ActionTraceRecorder
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.workers.episode_runner import Act, Begin, EpisodeRunner, Setup
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyTask

SEEDS = range(200, 204)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Four episodes, the first three filmed; the second is begun again, the third ends with NaN."""
    folder = tmp_path_factory.mktemp("run")
    task = ToyTask(faults=(Fault(201, "raise", str(folder), step=7),))
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2, nan_seed=202)
    return rollout(policy, task, SEEDS, workers=1, output=folder, videos=3), folder


@pytest.mark.parametrize("place", [0, 1])
def test_an_action_trace_played_again_is_the_same_episode(place, filmed):
    evaluation, folder = filmed
    episode = evaluation.episodes[place]
    actions = ActionTrace.load(folder / episode.action_trace)
    assert actions.seed == episode.seed
    assert actions.actions.shape == (episode.length, 2)
    runner = EpisodeRunner(Setup.of(ToyTask(), ToyTask().shape_meta(), success_hold=10))
    runner.handle(Begin(episode.seed))
    progress = [runner.handle(Act(chunk)) for chunk in actions.chunks][-1]
    assert progress.episode is not None and progress.episode.trace == episode.trace


def test_only_filmed_episodes_have_action_traces_and_only_executed_actions_are_in_them(filmed):
    evaluation, folder = filmed
    assert [bool(episode.action_trace) for episode in evaluation.episodes] == [True, True, False, False]
    assert evaluation.episodes[2].length == 0, "its first decision holds a NaN, so there is nothing to show"
    assert sorted(path.name for path in (folder / "action_traces").iterdir()) == [
        "seed_000200.json",
        "seed_000201.json",
    ]


class MixturePolicy(ToyPolicy):
    """Two ways to go on in every dimension, `distance` to either side, the first with chance `weight`."""

    def __init__(self, shape_meta, distance, weight, std):
        super().__init__(shape_meta)
        self.head = Mixture(shape_meta, distance, weight, std)

    def act(self, obs, episodes):
        self.head(torch.zeros(len(episodes), 1))
        return torch.zeros(len(episodes), self.shape_meta.n_action_steps, self.shape_meta.action.dim)


class Mixture(nn.Module):
    def __init__(self, shape_meta, distance, weight, std):
        super().__init__()
        self.chunk = (shape_meta.action_horizon, shape_meta.action.dim)
        self.distance, self.weight, self.std = distance, weight, std

    def forward(self, features):
        shape = (len(features), 2, *self.chunk)
        means = torch.tensor([self.distance, -self.distance])[:, None, None].expand(shape)
        weights = torch.tensor([self.weight, 1 - self.weight]).expand(len(features), 2)
        components = Normal(means, torch.full(shape, self.std))
        return MixtureSameFamily(Categorical(probs=weights), Independent(components, 2))


@pytest.mark.parametrize(("distance", "weight", "std"), [(0.5, 0.5, 0.1), (0.5, 0.9, 0.1), (0.0, 0.2, 0.3)])
def test_spread_and_modes_are_those_of_the_mixture(distance, weight, std):
    policy = MixturePolicy(ToyTask().shape_meta(), distance, weight, std)
    recorder = ActionTraceRecorder([7], n_action_steps=3)
    recorder.begin(7)
    for length in (0, 3):
        with recorder.watch(policy, [5, 7]) as measures:
            actions = policy.act({}, [5, 7]).numpy()
        recorder.add(7, actions[1] + length, measures, row=1)
    actions = recorder.finish(7, length=4)
    assert actions is not None
    # Two points at +-d with chances p and 1 - p have variance 4 p (1 - p) d^2.
    spread = math.sqrt(std**2 + 4 * weight * (1 - weight) * distance**2)
    modes = weight**-weight * (1 - weight) ** -(1 - weight)
    np.testing.assert_allclose(actions.decisions["spread"], [spread] * 2, rtol=1e-5)
    np.testing.assert_allclose(actions.decisions["modes"], [modes] * 2, rtol=1e-5)
    np.testing.assert_array_equal(actions.actions, [[0, 0]] * 3 + [[3, 3]])
    assert not policy.head._forward_hooks, "the policy is left as it was"


def test_numbers_that_are_not_finite_survive_the_file(tmp_path):
    actions = ActionTrace(3, 2, np.zeros((3, 1), np.float32), {"spread": np.array([0.5, math.nan])})
    actions.save(tmp_path / "t.json")
    np.testing.assert_array_equal(ActionTrace.load(tmp_path / "t.json").decisions["spread"], [0.5, math.nan])
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(EvaluationError, match="cannot be read as an action trace"):
        ActionTrace.load(tmp_path / "t.json")


class SeeingPolicy(ToyPolicy):
    """Remembers every picture it decided on."""

    def __init__(self, shape_meta):
        super().__init__(shape_meta, noise=0.2)
        encoder = create_encoder("vit_micro", attention="softmax", image_size=16, patch_size=4)
        self.encoders = nn.ModuleDict({"top_image": encoder.eval()})
        self.seen = []

    def image_encoders(self):
        return dict(self.encoders.items())

    def act(self, obs, episodes):
        self.seen.append(obs["top_image"][0, -1].permute(1, 2, 0).numpy().copy())
        self.encoders["top_image"](obs["top_image"][:, -1])
        return super().act(obs, episodes)


def test_the_attention_video_shows_the_pictures_that_the_policy_decided_on(tmp_path):
    task = ToyTask(horizon=9)
    policy = SeeingPolicy(task.shape_meta())
    evaluation = rollout(policy, task, [205], workers=1, output=tmp_path, videos=1)
    (episode,) = evaluation.episodes
    decided_on, policy.seen = policy.seen, []
    actions = ActionTrace.load(tmp_path / episode.action_trace)
    seen = watch_episode(policy, task, episode.seed, actions)
    assert len(seen) == len(actions.chunks) == len(decided_on)
    for (image,), picture in zip(seen, decided_on):
        np.testing.assert_array_equal(image.image, picture)
    frames = attention_frames(seen)["top_image"]
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * len(seen)
    assert len(watch_episode(policy, task, episode.seed, actions, decisions=2)) == 2
    assert len(watch_episode(policy, task, episode.seed)) == 1

    view, problems = record_attention(policy, task, evaluation, tmp_path)
    assert view.videos["top_image"].stat().st_size > 500 and problems == []
    view.videos["top_image"].unlink()
    view.videos["top_image"].mkdir()
    view, problems = record_attention(policy, task, evaluation, tmp_path)
    assert view.videos == {} and len(view.seen) == 1
    assert problems == ["The video attention_seed_000205_top_image.mp4 could not be written: Is a directory."]
