"""What the options of the attentions have in common: checks that name the option."""

from collections.abc import Collection

from fibo_robot.attention.errors import AttentionError


def require_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raise an :class:`AttentionError` that names `option` unless `value` is one of `choices`."""
    if value not in choices:
        raise AttentionError(f"{option} must be one of {', '.join(choices)}, not {value!r}.")


def require_count(option: str, value: int, least: int) -> None:
    """Raise an :class:`AttentionError` that names `option` unless `value` is a whole number >= `least`."""
    if not isinstance(value, int) or value < least:
        raise AttentionError(f"{option} must be a whole number of at least {least}, not {value!r}.")
