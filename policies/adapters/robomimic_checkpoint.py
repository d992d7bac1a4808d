"""robomimic's behaviour-cloning checkpoints (`.pth`) as policies, for `fibo rollout` and `load_policy`.

robomimic saves them with pickle. They are read with `weights_only`, which builds plain values and tensors and
nothing else. Its configs name classes that robomimic looks up with `eval`: only names of networks that it
knows are let through. What decides then is robomimic's own code.
"""

import contextlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robomimic.algo import RolloutPolicy
from robomimic.models import obs_core
from robomimic.utils import file_utils
from torch import Tensor, nn

from fibo_robot.envs.robomimic_metadata import task_from_env_args
from fibo_robot.envs.simulation.stored_object_state import stored_object_state
from fibo_robot.envs.tasks import Task
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.adapters.robomimic import register_backbone
from fibo_robot.policies.models.base import EpisodeNotBegun
from fibo_robot.training.checkpoint import CheckpointError
from fibo_robot.training.sampler import derived_seed

_PARTS = ("model", "config", "algo_name", "env_metadata", "shape_metadata")
# Where robomimic's config names a class that is looked up with eval.
_EVALUATED = ("backbone_class", "pool_class")
# What an episode carries from decision to decision in robomimic's recurrent algorithms.
_STATE = ("_rnn_hidden_state", "_rnn_counter", "_open_loop_obs")


class RobomimicPolicy(nn.Module):
    """robomimic's own policy behind the Policy protocol: an episode's noise and state are its own.

    Args:
        policy: robomimic's, as its rollouts use it.
        shape_meta: its observations and actions; it executes one action and looks again.
        task: what it was trained for.
        object_order: signed permutation `(D, D)` from our order of `object` to that of its training data;
            None where it does not see `object`.
    """

    def __init__(
        self, policy: RolloutPolicy, shape_meta: ShapeMeta, task: Task, object_order: Tensor | None
    ) -> None:
        super().__init__()
        self.nets = policy.policy.nets
        self.shape_meta, self.meta = shape_meta, {"kind": "policy", "task": task.to_dict()}
        self._policy, self._object_order = policy, object_order
        self._states: dict[int, dict[str, Any]] = {}
        self._decisions: dict[int, int] = {}

    def reset(self, episodes: Sequence[int]) -> None:
        """Begin episodes, named by their seeds."""
        for episode in episodes:
            self._policy.start_episode()
            self._states[episode], self._decisions[episode] = self._state(), 0

    def forget(self, episodes: Sequence[int]) -> None:
        """Free what these episodes held."""
        for episode in episodes:
            self._states.pop(episode, None)
            self._decisions.pop(episode, None)

    @torch.inference_mode()
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        """Actions `(B, 1, A)`, on the observations' device; rows are decided one by one, as robomimic does.

        Raises:
            EpisodeNotBegun: for an episode that was not reset.
        """
        rows = [self._decide(obs, row, episode) for row, episode in enumerate(episodes)]
        return torch.from_numpy(np.stack(rows))[:, None].to(next(iter(obs.values())).device)

    def _decide(self, obs: Mapping[str, Tensor], row: int, episode: int) -> np.ndarray:
        if episode not in self._states:
            raise EpisodeNotBegun(f"Episode {episode} has not begun: call policy.reset([{episode}]) first.")
        for name, value in self._states[episode].items():
            setattr(self._policy.policy, name, value)
        seen = {key: self._as_robomimic(key, values[row]) for key, values in obs.items()}
        with torch.random.fork_rng():  # its mixtures draw from the global generator
            torch.manual_seed(derived_seed(episode, self._decisions[episode]))
            action = self._policy(seen)
        self._states[episode] = self._state()
        self._decisions[episode] += 1
        return np.asarray(action)

    def _state(self) -> dict[str, Any]:
        algo = self._policy.policy
        return {name: getattr(algo, name) for name in _STATE if hasattr(algo, name)}

    def _as_robomimic(self, key: str, values: Tensor) -> np.ndarray:
        """One row's observations `(T, ...)` as robomimic's environments give them."""
        if self.shape_meta.obs[key].kind == "rgb":
            values = values.float() / 255
        elif key == "object" and self._object_order is not None:
            values = values @ self._object_order.to(values)
        return (values[0] if self.shape_meta.n_obs_steps == 1 else values).cpu().numpy()


def load_robomimic_policy(path: Path | str, device: str | torch.device = "cpu") -> RobomimicPolicy:
    """The policy in a checkpoint that robomimic's training script wrote, in evaluation mode.

    Raises:
        CheckpointError: the file is no such checkpoint, would execute code, is of another algorithm than BC,
            or sees what the task does not give.
        DatasetError: the task in it is not one of ours.
    """
    register_backbone()
    stored = _load(Path(path))
    config, _ = file_utils.config_from_checkpoint(ckpt_dict=stored)
    task = task_from_env_args(stored["env_metadata"], str(path))
    modalities = config.observation.modalities
    kinds = {kind: list(keys) for kind, keys in modalities.obs.items()}
    others = [kind for kind, keys in kinds.items() if keys and kind not in ("low_dim", "rgb")]
    if others or any(modalities.goal.values()):
        raise CheckpointError(
            f"{path} sees {', '.join(others) or 'a goal'}, which tasks here do not give. Give a policy of "
            "pictures and vectors."
        )
    shape_meta = task.shape_meta([*kinds["rgb"], *kinds["low_dim"]], n_obs_steps=config.train.frame_stack)
    shapes = stored["shape_metadata"]["all_shapes"]
    for key, spec in shape_meta.obs.items():
        if tuple(shapes[key]) != spec.shape:
            raise CheckpointError(
                f"{path} sees {key} of shape {tuple(shapes[key])}, its task gives {spec.shape}."
            )
    with _quiet():
        policy, _ = file_utils.policy_from_checkpoint(device=torch.device(device), ckpt_dict=stored)
    return RobomimicPolicy(
        policy, shape_meta, task, _object_order(shape_meta, stored["env_metadata"], path)
    ).eval()


def _load(path: Path) -> dict[str, Any]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no {path}.") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not read: it is no checkpoint of plain values and tensors, and loading anything else "
            "could execute code. Save it again with robomimic's own training script."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch file.") from error
    if not isinstance(stored, dict) or any(part not in stored for part in _PARTS):
        raise CheckpointError(f"{path} is no robomimic checkpoint: it lacks one of {', '.join(_PARTS)}.")
    if stored["algo_name"] != "bc":
        raise CheckpointError(
            f"{path} is of robomimic's algorithm {stored['algo_name']}; only bc is rolled out here."
        )
    stored["config"] = _checked_config(stored["config"], path)
    return stored


def _checked_config(text: str, path: Path) -> str:
    """The config without anything that robomimic would evaluate or download."""
    config = json.loads(text)
    for owner, key, value in _entries(config):
        if key in _EVALUATED and value is not None:
            known = getattr(obs_core, value, None) if isinstance(value, str) else None
            if not (isinstance(known, type) and issubclass(known, nn.Module)):
                raise CheckpointError(
                    f"{path} asks for the network {value!r}, which robomimic does not have."
                )
        elif key == "pretrained":
            owner[key] = False  # the checkpoint has its own weights
    return json.dumps(config)


def _entries(node: Any) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Every entry of nested dicts and lists, with the dict that it stands in."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            yield node, key, value
            yield from _entries(value)
    elif isinstance(node, list):
        for value in node:
            yield from _entries(value)


def _object_order(shape_meta: ShapeMeta, env_args: Mapping[str, Any], path: Path | str) -> Tensor | None:
    if "object" not in shape_meta.obs:
        return None
    # Reading a file moves entries and turns signs; done to unit vectors, that is an orthogonal matrix.
    units = np.eye(shape_meta.obs["object"].shape[0])
    return torch.from_numpy(stored_object_state(units, env_args, str(path)).T.copy())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield
