"""Composing the Hydra config, with errors that say what was mistyped and what was probably meant."""

import inspect
import re
import warnings
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

# The least that counts of the trainer can be, where Lightning or a callback would stumble over less later on.
_LEAST = {
    "max_epochs": 1,
    "checkpoint_every_n_epochs": 1,
    "keep_last": 0,
    "check_val_every_n_epoch": 1,
    "accumulate_grad_batches": 1,
}
_MAY_BE_NULL = ("max_epochs", "check_val_every_n_epoch")
# Parts that a policy or classifier is built with, or is not; all others are built for themselves.
_PARTS = ("attention", "encoder", "readout", "observation", "network")
_LARGEST_SEED = 2**32 - 1  # numpy's


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
            check_config(config, overrides, config_name)
        # Hydra raises ValueError for an override without a key.
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain(error, overrides, config_name)) from error
    return config


def check_config(config: DictConfig, overrides: Sequence[str], config_name: str = "train") -> None:
    """Refuse what Hydra composes and nothing reads, or what would surface far from here.

    Args:
        config: composed of the overrides; Hydra is still initialised.
        overrides: what somebody typed.
        config_name: of what it was composed.

    Raises:
        ConfigError: naming the key.
    """
    choices = tuple(_choices(overrides))
    given = OmegaConf.to_container(config, resolve=False)
    assert isinstance(given, dict)
    _note_unread(given, overrides)
    if len(choices) == len(overrides):  # options alone hold nothing that somebody typed
        return
    default = _default(config_name, choices)
    _check_keys(given, default)
    _check_numbers(dict(leaves(given)), dict(leaves(default)))


@cache  # composing takes longer than all else here, and a sweep chooses the same over and over
def _default(config_name: str, choices: tuple[str, ...]) -> dict[str, Any]:
    """The config that these choices of options give."""
    default = OmegaConf.to_container(compose(config_name, overrides=list(choices)), resolve=False)
    assert isinstance(default, dict)
    return {str(key): value for key, value in default.items()}


def _check_keys(given: Mapping[Any, Any], default: Mapping[str, Any]) -> None:
    """Every top-level key must be there and be read; the trainer's and targets must be there, too.

    Whether other keys are taken is seen when their node is built.
    """
    groups = GlobalHydra.instance().config_loader().list_groups("")
    for key in set(given) - set(default) - set(groups):
        if f"${{{key}" not in str(given):  # a variable that other values refer to is read
            known = [leaf for leaf, _ in leaves(default)]
            namesakes = [leaf for leaf in known if leaf.endswith(f".{key}")]
            hint = did_you_mean(namesakes[0] if namesakes else key, {*default, *known})
            raise ConfigError(f"Unknown config key '{key}': nothing reads it. {hint}")
    left = dict(leaves(given))
    removed = sorted(set(default) - set(given))
    removed += [
        key
        for key, _ in leaves(default)
        if key not in left and (key.startswith("trainer.") or key.endswith("._target_"))
    ]
    if removed:
        raise ConfigError(f"{removed[0]} cannot be removed: give it another value, or choose another option.")


def _note_unread(given: Mapping[Any, Any], overrides: Sequence[str]) -> None:
    """Say which overrides are of a part that nothing in this config is built with.

    No error: in a sweep over policies or encoders, some take the part and others have none.
    """
    typed = {override: re.split(r"[.=]", override.lstrip("+"))[0] for override in overrides}
    read = set(given) - set(_PARTS)
    waiting = list(read)
    while waiting:
        named = set(re.findall(r"\$\{(\w+)", str(given.get(waiting.pop())))) - read
        read |= named
        waiting += named
    unread = [override for override, part in typed.items() if part in _PARTS and part not in read]
    if unread:
        warnings.warn(
            f"{' '.join(unread)} has no effect: with the other settings, nothing is built with it.",
            stacklevel=2,
        )


def _check_numbers(given: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    for key, number in default.items():
        value = given.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if (key, value) == ("trainer.devices", "auto"):  # Lightning's word for all that there are
            continue
        if isinstance(value, bool) or (isinstance(value, str) and not value.startswith("${")):
            raise ConfigError(f"{key} must be a number like {number}, not '{value}'.")
        # Plugins are policies and attentions: the default of a fraction may be written 0 there.
        plugins_key = key.startswith(("policy.", "attention."))
        if isinstance(number, int) and isinstance(value, float) and not plugins_key:
            raise ConfigError(f"{key} must be a whole number like {number}, not {value}.")


def check_settings(config: DictConfig) -> None:
    """Refuse what would go wrong only once training has begun.

    Raises:
        ConfigError: naming the key.
    """
    if not isinstance(config.seed, int) or not 0 <= config.seed <= _LARGEST_SEED:
        raise ConfigError(f"seed must be a whole number from 0 to {_LARGEST_SEED}, not {config.seed}.")
    if not config.run_dir:
        raise ConfigError("run_dir has no value: give run_dir=FOLDER.")
    trainer = config.trainer
    for key, least in _LEAST.items():
        value = trainer[key]
        if (value is None and key not in _MAY_BE_NULL) or (value is not None and value < least):
            raise ConfigError(f"trainer.{key} must be at least {least}, not {value}.")
    max_steps = trainer.get("max_steps")
    if max_steps == 0:
        raise ConfigError("trainer.max_steps must be at least 1, or -1 for no limit, not 0.")
    if trainer.max_epochs is None and (max_steps is None or max_steps < 0):
        raise ConfigError(
            "Training has no end that its learning rate could go by: give trainer.max_epochs, or "
            "+trainer.max_steps beside null. +trainer.max_time may end it before."
        )


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
            _default.cache_clear()


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
