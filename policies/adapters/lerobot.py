"""Policies of ours inside LeRobot, and LeRobot's checkpoints of them here; LeRobot itself is not needed.

LeRobot's plug-in (:mod:`fibo_robot.lerobot`) is a thin shell around what stands here. A :class:`Recipe` says
everything from which a policy is built again. It travels as JSON in the `config.json` that LeRobot writes,
and the normaliser's statistics in the weights, so such a checkpoint loads here as any run directory does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fibo_robot.envs.demonstrations.lerobot import layout
from fibo_robot.envs.tasks import Task, get_task
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.training.checkpoint import MODEL, Checkpoint, CheckpointError
from fibo_robot.training.config import compose_config
from fibo_robot.training.rebuild import rebuild

TYPE = "fibo"  # the policy's name in LeRobot
CONFIG = "config.json"
INNER = "policy."  # where LeRobot's shell keeps our policy, in the keys of its weights
_STATE_ALONE = "state"  # what observation.state is called where no task of ours says what it is made of


class LeRobotError(FiboError):
    """A policy of ours cannot be built for these features of LeRobot, or from this checkpoint."""


@dataclass(frozen=True)
class Recipe:
    """What a policy inside LeRobot is built of.

    Attributes:
        policy: the policy's node of our config, resolved.
        shape_meta: what it sees and does, by our keys.
        cameras: LeRobot's key of each picture, by ours.
        state: the vectors that `observation.state` consists of, in their order, and their lengths.
        task: the simulated task it is for, as `Task.to_dict` gives it; None for any other.
    """

    policy: dict[str, Any]
    shape_meta: ShapeMeta
    cameras: dict[str, str]
    state: dict[str, int]
    task: dict[str, Any] | None

    def to_json(self) -> str:
        """A text; :meth:`from_json` reads it back."""
        return json.dumps({**vars(self), "shape_meta": self.shape_meta.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what :meth:`to_json` wrote.

        Raises:
            LeRobotError: the text is something else.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "shape_meta": ShapeMeta.from_dict(values["shape_meta"])})
        except (ValueError, TypeError, KeyError) as error:
            raise LeRobotError(
                f"This recipe of a policy cannot be read ({error}): train it again."
            ) from error

    def build(self) -> ChunkPolicy:
        """A policy with fresh weights, whose normaliser is not fitted.

        Raises:
            CheckpointError: it names something that is no registered part of a policy.
        """
        return rebuild(self._checkpoint(Path(CONFIG), {}), "policy", shape_meta=self.shape_meta)

    def observations(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """A batch of LeRobot by our keys, `(B, T, …)`: vectors float32, pictures uint8."""
        found: dict[str, Tensor] = {}
        for ours, theirs in self.cameras.items():
            pixels = batch[theirs]
            pixels = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)
            found[ours] = pixels if pixels.ndim == 5 else pixels[:, None]
        if self.state:
            parts = batch[layout.STATE].float().split(list(self.state.values()), dim=-1)
            found |= {key: part if part.ndim == 3 else part[:, None] for key, part in zip(self.state, parts)}
        if "object" in self.shape_meta.obs:
            state = batch[layout.OBJECT].float()
            found["object"] = state if state.ndim == 3 else state[:, None]
        return found

    def statistics(self, stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
        """Samples with the mean, deviation and range of LeRobot's statistics, to fit the normaliser on.

        Actions are scaled by their range, of which the ends are two samples; vectors by mean and deviation,
        which are those of the two samples one deviation off the mean.
        """

        def numbers(key: str, name: str) -> Tensor:
            return torch.as_tensor(stats[key][name], dtype=torch.float32)

        found = {"action": torch.stack([numbers(layout.ACTION, "min"), numbers(layout.ACTION, "max")])}
        for theirs, vectors in ((layout.STATE, self.state), (layout.OBJECT, self._object())):
            if vectors:
                mean, std = numbers(theirs, "mean"), numbers(theirs, "std")
                both = torch.stack([mean - std, mean + std]).split(list(vectors.values()), dim=-1)
                found |= dict(zip(vectors, both))
        return found

    def _object(self) -> dict[str, int]:
        spec = self.shape_meta.obs.get("object")
        return {} if spec is None else {"object": spec.shape[0]}

    def _checkpoint(self, folder: Path, weights: dict[str, Tensor]) -> Checkpoint:
        """As a run directory's checkpoint would say it."""
        meta: dict[str, Any] = {"kind": "policy", "shape_meta": self.shape_meta.to_dict()}
        if self.task is not None:
            meta["task"] = self.task
        return Checkpoint(folder, folder.resolve().name, {"policy": self.policy}, meta, weights)


def make_recipe(
    *,
    overrides: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    task: str = "",
    sees_objects: bool = False,
    n_obs_steps: int = 1,
    action_horizon: int = 8,
    n_action_steps: int = 4,
    stats: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """Choose a policy for features of LeRobot.

    Args:
        overrides: of our Hydra config, as `policy=bc_gmm`, `attention=castling`, `observation.crop_size=64`.
        shapes: by LeRobot's keys; pictures `(3, H, W)`.
        task: one of ours, which then says what the state consists of and what an action is; or empty.
        sees_objects: whether it is told where the objects truly are, where the data tell.
        n_obs_steps, action_horizon, n_action_steps: see ShapeMeta.
        stats: LeRobot's statistics; without a task of ours, they bound the actions.

    Raises:
        LeRobotError: the features are not the task's, or there is no range for the actions.
        FiboError: an unknown task, policy, encoder or attention.
    """
    known = get_task(task) if task else None
    if not isinstance(known, Task | None):
        raise LeRobotError(f"{task} has no state as LeRobot counts it: leave --policy.task out.")
    state, obs = {}, {}
    if layout.STATE in shapes:
        state = _state(int(shapes[layout.STATE][0]), known)
    cameras = {_our_key(key): key for key, shape in shapes.items() if len(shape) == 3}
    for ours, theirs in cameras.items():
        channels, height, width = shapes[theirs]
        obs[ours] = ObservationSpec((int(channels), int(height), int(width)), "rgb")
    obs |= {key: ObservationSpec((size,), "low_dim") for key, size in state.items()}
    if sees_objects and layout.OBJECT in shapes:
        obs["object"] = ObservationSpec((int(shapes[layout.OBJECT][0]),), "low_dim")
    action = _action(int(shapes[layout.ACTION][0]), known, stats)
    shape_meta = ShapeMeta(obs, action, n_obs_steps, action_horizon, n_action_steps)
    # The statistics are of actions as they lie in the data; rotations turned into another form have others.
    config = compose_config([*overrides, "++policy.action_rotation=axis_angle", "name=lerobot"])
    node = OmegaConf.to_container(config.policy, resolve=True)
    assert isinstance(node, dict)
    task_values = None if known is None else known.to_dict()
    return Recipe({str(key): value for key, value in node.items()}, shape_meta, cameras, state, task_values)


def is_checkpoint(folder: Path) -> bool:
    """Whether LeRobot saved a policy of ours in a folder."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("type") == TYPE


def read_checkpoint(folder: Path) -> Checkpoint:
    """What LeRobot saved of a policy of ours (`…/pretrained_model`), as a run directory's checkpoint.

    Raises:
        CheckpointError: its weights are missing or damaged.
        LeRobotError: its recipe cannot be read.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    recipe = Recipe.from_json(config.get("recipe") or "")
    try:
        weights = load_file(folder / MODEL)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / MODEL} cannot be read ({error}): train again.") from error
    inner = {key.removeprefix(INNER): value for key, value in weights.items() if key.startswith(INNER)}
    return recipe._checkpoint(folder, inner)


def _our_key(key: str) -> str:
    """Our name of a picture: without LeRobot's prefixes, nor points, which modules' names cannot have."""
    return key.removeprefix("observation.").removeprefix("images.").replace(".", "_") + "_image"


def _state(size: int, task: Task | None) -> dict[str, int]:
    if task is None:
        return {_STATE_ALONE: size}
    state = {key: length for key, length in task.low_dim.items() if key != "object"}
    if sum(state.values()) != size:
        raise LeRobotError(
            f"observation.state has {size} numbers, the task {task.name} gives {sum(state.values())} "
            f"({', '.join(state)}). Leave --policy.task out for data of another kind."
        )
    return state


def _action(size: int, task: Task | None, stats: Mapping[str, Mapping[str, Any]] | None) -> ActionSpec:
    if task is not None:
        if task.action.dim != size:
            raise LeRobotError(f"Actions have {size} numbers, the task {task.name} takes {task.action.dim}.")
        return task.action
    if stats is None:
        raise LeRobotError(
            "There are no statistics of the actions, so nothing bounds them: build the policy for a dataset, "
            "or name a task with --policy.task."
        )
    low, high = ([float(v) for v in stats[layout.ACTION][name]] for name in ("min", "max"))
    low, high = zip(*((a, b) if a < b else (a - 1, b + 1) for a, b in zip(low, high)))
    return ActionSpec(size, tuple(low), tuple(high), rotation="none", arms=0)
