"""Calling what a config node names; kept apart from the trainer, which loading a model does not need."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from fibo_robot.errors import FiboError
from fibo_robot.training.config import ConfigError


def build(node: Any, **given: Any) -> Any:
    """Call the config node's target with its config and `given`; what it raises for the user passes through.

    Hydra turns dataclasses that it is given into configs, so it only prepares the call.

    Raises:
        ConfigError: the target cannot be called so.
    """
    try:
        return instantiate(node, _partial_=True)(**given)
    except FiboError:
        raise
    except (InstantiationException, AssertionError, TypeError, ValueError) as error:  # PyTorch asserts
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, FiboError):
            raise cause from None
        raise ConfigError(f"Cannot build {node._target_}: {cause or error}") from error
