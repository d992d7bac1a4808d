"""Building environments of robosuite's, and what has to happen before it is imported."""

import logging
from collections.abc import Mapping
from typing import Any

from fibo_robot.envs.rendering.settings import prepare_rendering
from fibo_robot.extras import require

# robosuite draws the sizes of some objects when it builds a model. Here one model serves all episodes: the
# seed decides placements, and in Lift the cube's size; the size of Transport's hammer is the same in all.
_MODEL_SEED = 0


def import_robosuite(renderer: str) -> Any:
    """The module `robosuite`, quiet; raises FiboError where the extra that brings it is not installed.

    Args:
        renderer: what will draw: the binding to OpenGL is chosen when MuJoCo is imported.

    Raises:
        RendererError: if the renderer's library is missing.
    """
    prepare_rendering(renderer)
    # robosuite warns of optional parts that nothing here uses, and sets its logger's level on import.
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    return require("robosuite", extra="sim", purpose="The simulator")


def make_robosuite(robosuite: Any, env_name: str, kwargs: Mapping[str, Any]) -> Any:
    """One of robosuite's environments, the same in every process; `kwargs` are those of `robosuite.make`."""
    environment = robosuite.make(env_name, seed=_MODEL_SEED, **kwargs)
    # Its reset hides the marks at the grippers, which a state shown before any episode must not show either.
    environment.reset()
    return environment


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
