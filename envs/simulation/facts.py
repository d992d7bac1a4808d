"""What only the simulator knows of an environment that a file names: sizes, cameras, bounds of an action.

Asking builds the environment once, which takes seconds; the answers are remembered as long as the process
lives. Tasks with the robots that they are registered with need not ask.
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.rendering.settings import RendererError
from fibo_robot.envs.simulation.robosuite_environment import import_robosuite, make_robosuite

# Of what robosuite senses of a robot: what robomimic's tasks observe of an arm. Mobile robots have the hand's
# pose relative to the base as well.
_PROPRIOCEPTION = ("eef_pos", "eef_quat", "gripper_qpos")
_RELATIVE = "base_to_"
_FIRST_CAMERA = "agentview"
_ON_A_HAND = "eye_in"


@dataclass(frozen=True)
class SceneFacts:
    """One environment of robosuite's, with its robots, as the simulator builds it.

    Attributes:
        low_dim: proprioceptive observations and their lengths.
        objects: what robosuite senses of the objects, by name and in its order, and the lengths.
        cameras: the first view of the scene, and those on hands.
        low, high: bounds of every entry of an action, as robosuite gives them.
        single_arms: every robot has one arm.
    """

    low_dim: Mapping[str, int]
    objects: Mapping[str, int]
    cameras: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    single_arms: bool


def ask_simulator(env_name: str, kwargs: Mapping[str, Any], source: str) -> SceneFacts:
    """Build an environment and say what it is.

    Args:
        env_name: robosuite's name.
        kwargs: arguments of `robosuite.make`, JSON-ready.
        source: what to call the file that names the environment in messages.

    Raises:
        DatasetError: if robosuite has no such environment, or cannot build it with these arguments.
        FiboError: if the simulator is not installed.
    """
    known = _import().ALL_ENVIRONMENTS
    if env_name not in known:
        raise DatasetError(
            f"{source} is of the environment {env_name}, which robosuite does not have here; it has "
            f"{', '.join(sorted(known))}."
        )
    try:
        return _ask(env_name, json.dumps(kwargs))  # the order of parts is that of the action
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DatasetError(
            f"robosuite cannot build the environment of {source}, {env_name} with "
            f"{' and '.join(kwargs.get('robots', ()))}: {reason}"
        ) from error


def unknown_arguments(env_name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are no arguments of an environment of robosuite's; all where it has none such."""
    environment = _import().environments.base.REGISTERED_ENVS.get(env_name)
    if environment is None:
        return sorted(names)
    taken: set[str] = set()
    for part in environment.__mro__:  # a class that takes `**kwargs` hands them on to the next one
        taken.update(inspect.signature(part.__init__).parameters)
    return sorted(set(names).difference(taken))


def _import() -> Any:
    try:
        return import_robosuite("auto")
    except RendererError:  # nothing is drawn here
        return import_robosuite("warp")


@lru_cache
def _ask(env_name: str, kwargs: str) -> SceneFacts:
    environment = make_robosuite(_import(), env_name, json.loads(kwargs))
    try:
        sensors = {
            name: (observable.modality, int(np.size(observable.obs)))
            for name, observable in environment._observables.items()
            if observable.is_enabled() and observable.is_active()
        }
        low, high = environment.action_spec
        model = environment.sim.model._model
        names = [model.camera(index).name for index in range(model.ncam)]
        return SceneFacts(
            low_dim={
                name: size
                for name, (modality, size) in sensors.items()
                if modality.endswith("_proprio")
                and name.endswith(_PROPRIOCEPTION)
                and _RELATIVE not in name
                and size > 0
            },
            objects={name: size for name, (modality, size) in sensors.items() if modality == "object"},
            cameras=(
                _FIRST_CAMERA if _FIRST_CAMERA in names else names[0],
                *(name for name in names if _ON_A_HAND in name),
            ),
            low=tuple(map(float, low)),
            high=tuple(map(float, high)),
            single_arms=all(len(robot.arms) == 1 for robot in environment.robots),
        )
    finally:
        environment.close()
