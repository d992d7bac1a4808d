"""A policy is evaluated on its own task, and an evaluation goes on with the same policy only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fibo_robot.encoders import create_encoder
from fibo_robot.envs import get_task
from fibo_robot.envs.errors import EvaluationError, RolloutError
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.identity import choose_task, describe_policy, seen_in_training, weights_digest
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import ToyTask

SEEDS = range(200, 203)


class TrainedPolicy(ToyPolicy):
    """A policy whose checkpoint says what it was trained on."""

    def __init__(self, trained_on: dict[str, Any], shape_meta: ShapeMeta | None = None) -> None:
        super().__init__(shape_meta or ToyTask().shape_meta(), noise=0.2)
        self.meta = {"task": trained_on}


def test_without_a_task_the_policys_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    own = get_task("lift", horizon=30)
    meta = json.loads(json.dumps(own.to_dict()))
    task, differences = choose_task(TrainedPolicy(meta), None, allow_other_task=False)
    assert task == replace(own, renderer="osmesa") and differences == {}
    with pytest.raises(RolloutError, match="does not say which task it was trained for"):
        rollout(ToyPolicy(ToyTask().shape_meta()))


def test_episodes_that_begin_as_demonstrations_did_are_told(tmp_path: Path) -> None:
    policy = TrainedPolicy(json.loads(json.dumps(ToyTask().to_dict())))
    policy.meta["dataset"] = {"seeds": [0, 200, 202, 500]}
    evaluation = rollout(policy, ToyTask(), SEEDS, output=tmp_path)
    assert evaluation.notes[0].startswith("2 of 3 episodes begin where a demonstration began that the policy")
    assert "(seeds 200 to 202)" in evaluation.notes[0]
    assert not rollout(policy, ToyTask(), [201]).notes
    assert seen_in_training(policy, SEEDS, {"env_name": ["Lift", "Stack"]}) is None  # other start states
    assert seen_in_training(policy, SEEDS, {"image_size": [84, 96]}) is not None


def test_auto_is_the_renderer_that_it_means_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    policy = TrainedPolicy(json.loads(json.dumps(get_task("lift", renderer="osmesa").to_dict())))
    assert choose_task(policy, get_task("lift"), allow_other_task=False)[1] == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"renderer": "warp"}, "quality differs; renderer was osmesa, is warp"),
        ({"image_size": 96}, "image_size was 84, is 96"),
        ({"quality": RenderQuality(multisamples=0)}, "quality differs"),
        ({"controller": {"type": "BASIC", "body_parts": {}}}, "controller differs"),
        ({"options": {"gripper_types": "WipingGripper"}}, "options differs"),
    ],
)
def test_another_task_is_refused_by_the_settings_that_differ(change: dict[str, Any], named: str) -> None:
    policy = TrainedPolicy(get_task("lift", renderer="osmesa").to_dict())
    other = get_task("lift", **{"renderer": "osmesa", **change})
    with pytest.raises(RolloutError, match=f"another task: {named}.*--other-task"):
        rollout(policy, other, SEEDS)


def test_another_task_that_was_allowed_stands_in_the_result(tmp_path: Path) -> None:
    policy = TrainedPolicy(ToyTask(horizon=20).to_dict())
    with pytest.raises(RolloutError, match="horizon was 20, is 36"):
        rollout(policy, ToyTask(), SEEDS)
    evaluation = rollout(policy, ToyTask(), SEEDS, workers=1, allow_other_task=True, output=tmp_path)
    assert evaluation.other_task == {"horizon": [20, 36]}
    assert evaluation.notes == (
        "This is not the task that the policy was trained for: horizon was 20, is 36.",
    )
    assert type(evaluation).load(tmp_path) == evaluation


def test_a_wrong_picture_size_is_one_message_and_starts_no_worker() -> None:
    meta = ToyTask().shape_meta()
    larger = replace(meta, obs={**meta.obs, "top_image": ObservationSpec((3, 24, 24), "rgb")})
    with pytest.raises(RolloutError, match=r"sees top_image as rgb \(3, 24, 24\), the task toy gives rgb"):
        rollout(ToyPolicy(larger), ToyTask(broken=True), SEEDS, workers=1)
    longer = replace(meta, action=ActionSpec.deltas())
    with pytest.raises(RolloutError, match=r"gives 7 numbers per action.*toy takes 2"):
        rollout(ToyPolicy(longer), ToyTask(broken=True), SEEDS, workers=1)
    unknown = replace(meta, obs={**meta.obs, "side_image": ObservationSpec((3, 16, 16), "rgb")})
    with pytest.raises(FiboError, match="no observation 'side_image'"):
        rollout(ToyPolicy(unknown), ToyTask(broken=True), SEEDS, workers=1)


def test_a_task_that_gives_another_size_than_it_says_is_reported_once() -> None:
    with pytest.raises(RolloutError, match=r"gave top_image of shape \(3, 8, 8\), where .* says \(3, 16"):
        rollout(ToyPolicy(ToyTask().shape_meta()), ToyTask(lying=True), SEEDS, workers=1)


def test_only_the_same_weights_go_on_with_an_evaluation(tmp_path: Path) -> None:
    meta = ToyTask().shape_meta()
    first = rollout(ToyPolicy(meta, noise=0.2), ToyTask(), SEEDS[:1], workers=1, output=tmp_path)
    other = ToyPolicy(meta, noise=0.2)
    with torch.no_grad():
        other.head.bias[0] += 1e-6
    with pytest.raises(EvaluationError, match="another policy"):
        rollout(other, ToyTask(), SEEDS, workers=1, output=tmp_path, resume=True)
    resumed = rollout(ToyPolicy(meta, noise=0.2), ToyTask(), SEEDS, workers=1, output=tmp_path, resume=True)
    assert resumed.episodes[0] == first.episodes[0] and len(resumed.episodes) == 3


class PlainPolicy:
    """No module: nothing tells it from another."""

    def __init__(self) -> None:
        self.shape_meta = ToyTask().shape_meta()

    def reset(self, episodes: Sequence[int]) -> None: ...

    def forget(self, episodes: Sequence[int]) -> None: ...

    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        return torch.zeros(len(episodes), self.shape_meta.n_action_steps, self.shape_meta.action.dim)


def test_a_policy_that_cannot_be_identified_is_to_be_named(tmp_path: Path) -> None:
    named, nameless = tmp_path / "named", tmp_path / "nameless"
    info = {"checkpoint": "a"}
    rollout(PlainPolicy(), ToyTask(), SEEDS[:1], workers=1, output=nameless)
    with pytest.raises(EvaluationError, match=r"no nn\.Module.*policy_info"):
        rollout(PlainPolicy(), ToyTask(), SEEDS, workers=1, output=nameless, resume=True)
    rollout(PlainPolicy(), ToyTask(), SEEDS[:1], workers=1, output=named, policy_info=info)
    with pytest.raises(EvaluationError, match="another policy"):
        rollout(PlainPolicy(), ToyTask(), SEEDS, output=named, resume=True, policy_info={"checkpoint": "b"})
    resumed = rollout(PlainPolicy(), ToyTask(), SEEDS, workers=1, output=named, resume=True, policy_info=info)
    assert len(resumed.episodes) == 3


def test_a_digest_is_of_names_types_shapes_and_numbers() -> None:
    def module(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, name: str = "a") -> nn.Module:
        holder = nn.Module()
        holder.register_buffer(name, torch.zeros(shape, dtype=dtype))
        return holder

    same = weights_digest(module((2, 3)))
    assert weights_digest(module((2, 3))) == same
    other = [
        module((3, 2)),
        module((2, 3), torch.bfloat16),
        module((2, 3), torch.int32),
        module((2, 3), name="b"),
        module((2, 3, 1)),
    ]
    assert len({same, *map(weights_digest, other)}) == 6
    weights_digest(module((), torch.bool))  # a scalar has a digest, too


def test_the_attention_in_a_policy_is_named() -> None:
    policy = ToyPolicy(ToyTask().shape_meta())
    assert describe_policy(policy, None)["attention"] == []
    policy.encoder = create_encoder("vit_micro", attention="fibottention", image_size=16, patch_size=4)
    assert describe_policy(policy, None)["attention"] == ["fibottention"]


def test_a_policy_of_another_simulator_version_is_rolled_out_and_that_is_noted() -> None:
    policy = TrainedPolicy(ToyTask().to_dict())
    policy.meta["versions"] = {"robosuite": "1.4.1"}
    evaluation = rollout(policy, ToyTask(), [200], workers=1, progress=False)
    assert len(evaluation.counted) == 1
    (note,) = evaluation.notes
    assert note.startswith("The checkpoint was made with robosuite 1.4.1, this is ")
