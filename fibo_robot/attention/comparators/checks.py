"""What the comparators' options have in common."""

from fibo_robot.attention.errors import AttentionError


def require_count(option: str, value: int, least: int) -> None:
    """Raise an :class:`AttentionError` that names `option` unless `value` is a whole number >= `least`."""
    if not isinstance(value, int) or value < least:
        raise AttentionError(f"{option} must be a whole number of at least {least}, not {value!r}.")
