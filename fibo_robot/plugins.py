"""What configs may name: our own models' parts, and what installed packages add through entry points.

A package adds a policy or an attention by declaring it in its pyproject.toml,

    [project.entry-points."fibo_robot.policies"]
    my_policy = "my_package.policy:MyPolicy"

and then `fibo train policy=my_policy` finds it. Hydra's `_target_` calls whatever it names, so a checkpoint
from elsewhere would be code: only what was registered here, or declared so, is called when one is loaded.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fibo_robot.errors import FiboError

POLICIES, ATTENTIONS = "fibo_robot.policies", "fibo_robot.attentions"

Target = TypeVar("Target", bound=Callable[..., Any])
_registered: set[str] = set()


class PluginError(FiboError):
    """An installed package declares a policy or an attention that cannot be imported."""


def register(target: Target, path: str | None = None) -> Target:
    """Let configs and checkpoints name this class or function as a `_target_`; usable as a decorator.

    Args:
        target: what is called with the config's values.
        path: the dotted path that configs use, where it is not the one it is defined at.
    """
    _registered.add(path or f"{target.__module__}.{target.__qualname__}")
    return target


def is_registered(path: str) -> bool:
    """Whether a `_target_` may be called; imports the plugin that declares it, whose parts register then."""
    if path in _registered:
        return True
    for name, point in plugins(POLICIES).items():
        if path == target_path(point):
            load_plugin(POLICIES, name)
            _registered.add(path)
            return True
    return False


def plugins(group: str) -> dict[str, EntryPoint]:
    """What installed packages declare in an entry point group, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load_plugin(group: str, name: str) -> Any:
    """Import what a package declares as `name`; None where none does.

    Raises:
        PluginError: it cannot be imported.
    """
    point = plugins(group).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # whatever the foreign module raises
        package = point.dist.name if point.dist is not None else point.module
        raise PluginError(
            f"{name!r} of the installed package {package} cannot be imported ({point.value}): {error}. "
            "Update or uninstall that package."
        ) from error


def target_path(point: EntryPoint) -> str:
    """The dotted path of what an entry point names, as a `_target_` has it."""
    return f"{point.module}.{point.attr}"
