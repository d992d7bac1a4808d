"""Rebuilding a model from a checkpoint's config without running anything that the config could name.

Hydra's `_target_` calls whatever it names, so a config from elsewhere is code. Only the targets listed
here are called; a package with models of its own adds them with :func:`trust`.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fibo_robot.training.build import build
from fibo_robot.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint

_TRUSTED = {
    "fibo_robot.encoders.create_encoder",
    "fibo_robot.encoders.create_video_encoder",
    "fibo_robot.policies.models.bc.BehaviourCloning",
    "fibo_robot.policies.models.heads.GaussianMixtureHead",
    "fibo_robot.video.classifier.VideoClassifier",
}


def trust(target: str) -> None:
    """Let checkpoints name this importable class or function as a `_target_`."""
    _TRUSTED.add(target)


def rebuild(checkpoint: Checkpoint, node: str, **given: Any) -> Any:
    """Instantiate the config node at the dotted path `node`, with `given` as further arguments.

    Pretrained weights that training started from are not looked up: the checkpoint has its own.

    Raises:
        CheckpointError: there is no such node, or it names a target that is not trusted.
    """
    config = OmegaConf.select(OmegaConf.create(checkpoint.config), node)
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{checkpoint.directory}: its config has no {node}. Train it again.")
    plain = OmegaConf.to_container(config, resolve=True)
    _check(plain, checkpoint)
    return build(OmegaConf.create(plain), **given)


def load_model(checkpoint_dir: Path | str, kind: str, node: str, **given: Any) -> tuple[Any, Checkpoint]:
    """A trained model in evaluation mode, and the checkpoint it came from.

    `given` maps an argument of the model to a function of the checkpoint's meta, for what is not config.

    Raises:
        CheckpointError: the directory is not a complete checkpoint of this `kind`, or its weights do not fit.
    """
    checkpoint = load_checkpoint(checkpoint_dir)
    found = checkpoint.meta.get("kind", "nothing known")
    if found != kind:
        raise CheckpointError(
            f"{checkpoint_dir} holds a {found}, not a {kind}. Give a {kind}'s run directory."
        )
    model = rebuild(checkpoint, node, **{name: read(checkpoint.meta) for name, read in given.items()})
    try:
        model.load_state_dict(checkpoint.state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise CheckpointError(f"The weights in {checkpoint_dir} do not fit its config: {reason}") from error
    model.meta = checkpoint.meta
    return model.eval(), checkpoint


def _check(node: Any, checkpoint: Checkpoint) -> None:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and target not in _TRUSTED:
            raise CheckpointError(
                f"{checkpoint.directory} asks to call {target}, which is not a known model. If you trust it, "
                f'call fibo_robot.training.rebuild.trust("{target}") first.'
            )
        if "pretrained" in node:
            node["pretrained"] = False
    for child in children:
        _check(child, checkpoint)
