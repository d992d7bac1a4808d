"""Rebuilding a trained policy from its checkpoint directory."""

import warnings
from pathlib import Path

import torch

from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.bc import BehaviourCloning
from fibo_robot.training.checkpoint import CheckpointError, load_checkpoint, version_differences
from fibo_robot.training.rebuild import rebuild


def load_policy(checkpoint_dir: str | Path, device: str | torch.device = "cpu") -> BehaviourCloning:
    """The policy in `checkpoint_dir`, in evaluation mode on `device`; its `.meta` is the meta.json.

    Warns in plain words where the simulator's version differs from the one it was trained with.

    Raises:
        CheckpointError: the directory is not a complete policy checkpoint, or its weights do not fit.
    """
    checkpoint = load_checkpoint(checkpoint_dir)
    if checkpoint.meta.get("kind") != "policy":
        kind = checkpoint.meta.get("kind", "nothing known")
        raise CheckpointError(
            f"{checkpoint_dir} holds a {kind}, not a policy. Give a policy's run directory."
        )
    for difference in version_differences(checkpoint.meta):
        warnings.warn(difference, stacklevel=2)
    policy = rebuild(
        checkpoint, "policy.policy", shape_meta=ShapeMeta.from_dict(checkpoint.meta["shape_meta"])
    )
    try:
        policy.load_state_dict(checkpoint.state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise CheckpointError(f"The weights in {checkpoint_dir} do not fit its config: {reason}") from error
    policy.meta = checkpoint.meta
    return policy.eval().to(device)
