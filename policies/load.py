"""Rebuilding a trained policy from its checkpoint directory."""

import warnings
from pathlib import Path

import torch

from fibo_robot.hub.source import local_folder
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.adapters import lerobot

# Each family and each of its parts registers itself, for checkpoints to name.
from fibo_robot.policies.models import act, bc, bc_rnn, bc_transformer  # noqa: F401
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.models.denoising import mlp, policy, transformer, unet  # noqa: F401
from fibo_robot.training.checkpoint import Checkpoint, load_checkpoint, version_differences
from fibo_robot.training.rebuild import load_model


def load_policy(source: str | Path, device: str | torch.device = "cpu") -> ChunkPolicy:
    """The policy at `source`, in evaluation mode on `device`; its `.meta` is the meta.json.

    Warns in plain words where the simulator's version differs from the one it was trained with.

    Args:
        source: a run directory, or a folder in which LeRobot saved a policy of ours (`pretrained_model`); or
            `hf:owner/name` of either on the Hub.
        device: where it runs.

    Raises:
        CheckpointError: the directory is not a complete policy checkpoint, or its weights do not fit.
        HubError: the Hub does not give it.
        ShapeError: another version of fibo_robot wrote it.
    """
    loaded, checkpoint = load_model(
        policy_checkpoint(source),
        "policy",
        "policy",
        ChunkPolicy,
        {"shape_meta": lambda meta: ShapeMeta.from_dict(meta["shape_meta"])},
    )
    loaded.meta = checkpoint.meta
    for difference in version_differences(checkpoint.meta):
        warnings.warn(difference, stacklevel=2)
    return loaded.to(device)


def policy_checkpoint(source: str | Path) -> Checkpoint:
    """What :func:`load_policy` builds a policy from; arguments and errors are the same."""
    folder = local_folder(source)
    return lerobot.read_checkpoint(folder) if lerobot.is_checkpoint(folder) else load_checkpoint(source)
