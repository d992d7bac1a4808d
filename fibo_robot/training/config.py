"""Composing the Hydra config, with errors that say what was mistyped and what was probably meant."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fibo_robot.errors import FiboError, did_you_mean
from fibo_robot.plugins import ATTENTIONS, POLICIES, load_plugin, plugins, target_path

CONFIG_MODULE = "fibo_robot.conf"


class ConfigError(FiboError):
    """An override names a key or a config that does not exist, or does not parse."""


def compose_config(overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """Compose a config of `fibo_robot.conf` with Hydra overrides.

    Raises:
        ConfigError: an override is malformed or names an unknown key or option; the message names the
            nearest known one.
    """
    offer_plugins(overrides)
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = compose(config_name, overrides=list(overrides))
            choices = tuple(_choices(overrides))
            # Options alone hold no text that somebody typed.
            numbers = _numbers(config_name, choices) if len(choices) < len(overrides) else {}
        # Hydra raises ValueError for an override without a key.
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain(error, overrides, config_name)) from error
    _check_numbers(config, numbers)
    return config


@cache  # composing takes longer than all else here, and a sweep chooses the same over and over
def _numbers(config_name: str, choices: tuple[str, ...]) -> dict[str, int | float]:
    """The numbers in the config that these choices of options give, by dotted key."""
    default = OmegaConf.to_container(compose(config_name, overrides=list(choices)), resolve=False)
    return {
        key: value
        for key, value in leaves(default)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _check_numbers(config: DictConfig, numbers: Mapping[str, int | float]) -> None:
    """Text where the defaults have a number is a mistake that would surface far from here."""
    plain = dict(leaves(OmegaConf.to_container(config, resolve=False)))
    for key, value in numbers.items():
        given = plain.get(key)
        if isinstance(given, str) and not given.startswith("${"):
            raise ConfigError(f"{key} must be a number like {value}, not '{given}'.")


def offer_plugins(overrides: Sequence[str]) -> None:
    """Make policies and attentions of installed packages options of their groups, where overrides name one.

    A plugin's options are the arguments that its class gives defaults to; a policy's encoder and observation
    are the config's.

    Raises:
        PluginError: a package declares it, but it cannot be imported.
    """
    for group, entries in (("policy", POLICIES), ("attention", ATTENTIONS)):
        chosen = (override.split("=", 1)[1] for override in overrides if override.startswith(f"{group}="))
        names = {name for value in chosen for name in value.split(",")}
        for name in names and names & set(plugins(entries)):  # no need to ask all packages for no name
            plugin = load_plugin(entries, name)
            if group == "attention":
                node = {"name": name, **_defaults(plugin.core_type.options_type)}
            else:
                node = {"_target_": target_path(plugins(entries)[name]), **_defaults(plugin)}
                taken = inspect.signature(plugin).parameters
                node |= {part: f"${{{part}}}" for part in ("encoder", "observation") if part in taken}
            ConfigStore.instance().store(group=group, name=name, node=node)
            _numbers.cache_clear()


def _defaults(called: Callable[..., Any]) -> dict[str, Any]:
    """Default values of a class's arguments, where a config can write them."""
    plain = (bool, int, float, str, list, tuple, type(None))
    values = {name: given.default for name, given in inspect.signature(called).parameters.items()}
    return {name: value for name, value in values.items() if isinstance(value, plain)}


def _choices(overrides: Sequence[str]) -> list[str]:
    """The overrides that choose a group's option, such as `experiment=lift_bc`."""
    groups = GlobalHydra.instance().config_loader().list_groups("")
    return [override for override in overrides if override.split("=")[0] in groups]


def explain(error: Exception, overrides: Sequence[str], config_name: str = "train") -> str:
    """What was wrong with the overrides, in a sentence that names the nearest known key or option."""
    text = str(error)
    choice = re.search(r"Could not find '([^'/]+)/([^']+)'", text)
    if choice:
        group, option = choice.groups()
        added = plugins({"policy": POLICIES, "attention": ATTENTIONS}.get(group, group))
        return f"There is no {group} named '{option}'. {did_you_mean(option, [*options_of(group), *added])}"
    unknown = re.search(r"Could not override '([^'@]+)'|Key '([^']+)' is not in struct", text)
    if unknown:
        given = unknown[1] or unknown[2]
        keys = (override.split("=")[0].lstrip("+~") for override in overrides)
        full = next((key for key in keys if key.endswith(given)), given)
        return f"Unknown config key '{full}'. {did_you_mean(full, known_keys(overrides, config_name))}"
    return f"Cannot use the settings {' '.join(overrides)}: {text.splitlines()[0]}. Write each as key=value."


def options_of(group: str) -> list[str]:
    """The options of a config group, e.g. every experiment."""
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def known_keys(overrides: Sequence[str], config_name: str = "train") -> Iterator[str]:
    """Dotted keys of the config, composed with those of the overrides that choose a group's option."""
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        groups = GlobalHydra.instance().config_loader().list_groups("")
        try:
            config = compose(config_name, overrides=_choices(overrides))
        except (HydraException, OmegaConfBaseException):
            config = compose(config_name)
    yield from groups
    yield from (key for key, _ in leaves(OmegaConf.to_container(config, resolve=False)))


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dicts of OmegaConf; a key that holds a dict is left out."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
