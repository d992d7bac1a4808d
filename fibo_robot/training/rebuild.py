"""Rebuilding a model from a checkpoint's config without running anything that the config could name.

Hydra's `_target_` calls whatever it names, so a config from elsewhere is code. Only what is registered
(fibo_robot.plugins) is called.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from torch import nn

from fibo_robot.hub.source import is_on_hub
from fibo_robot.plugins import is_registered
from fibo_robot.training.build import build
from fibo_robot.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint

Model = TypeVar("Model", bound=nn.Module)


def rebuild(checkpoint: Checkpoint, node: str, **given: Any) -> Any:
    """Instantiate the config node at the dotted path `node`, with `given` as further arguments.

    Pretrained weights that training started from are not looked up: the checkpoint has its own.

    Raises:
        CheckpointError: there is no such node, or it names a target that is not registered.
    """
    config = OmegaConf.select(OmegaConf.create(checkpoint.config), node)
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{checkpoint.directory}: its config has no {node}. Train it again.")
    plain = OmegaConf.to_container(config, resolve=True)
    _check(plain, checkpoint)
    return build(OmegaConf.create(plain), **given)


def load_model(
    source: Path | str | Checkpoint,
    kind: str,
    node: str,
    model_type: type[Model],
    given: Mapping[str, Callable[[dict[str, Any]], Any]],
) -> tuple[Model, Checkpoint]:
    """A trained model in evaluation mode, and the checkpoint it came from.

    Args:
        source: the run directory, or `hf:owner/name` on the Hub; or what was read from one.
        kind: what it must hold, `policy` or `classifier`.
        node: dotted path of the model in its config.
        model_type: what the config must build.
        given: for arguments of the model that are not config, how to read them from the checkpoint's meta.

    Raises:
        CheckpointError: the directory is not a complete checkpoint of this `kind`, or its weights do not fit.
        HubError: the Hub does not give it.
    """
    checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
    called = checkpoint.name if is_on_hub(checkpoint.name) else checkpoint.directory
    found = checkpoint.meta.get("kind", "nothing known")
    if found != kind:
        raise CheckpointError(f"{called} holds a {found}, not a {kind}. Give a {kind}'s run directory.")
    model = rebuild(checkpoint, node, **{name: read(checkpoint.meta) for name, read in given.items()})
    if not isinstance(model, model_type):
        raise CheckpointError(
            f"{called} describes a {type(model).__name__} where a {kind} should be. Train it again."
        )
    try:
        model.load_state_dict(checkpoint.state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise CheckpointError(f"The weights in {called} do not fit its config: {reason}") from error
    return model.eval(), checkpoint


def _check(node: Any, checkpoint: Checkpoint) -> None:
    """Refuse targets that are not registered, from the outside in: a plugin's parts are known once it is."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not is_registered(str(target)):
            raise CheckpointError(
                f"{checkpoint.directory} asks to call {target}, which is not a known model. If you trust it, "
                "install the package that declares it as a plugin, or pass it to "
                "fibo_robot.plugins.register first."
            )
        if "pretrained" in node:
            node["pretrained"] = False
    for child in children:
        _check(child, checkpoint)
