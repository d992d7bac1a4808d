"""The one base class for errors that a user can act on, and the hint for a mistyped name.

The `fibo` command prints the message of a :class:`FiboError` and exits with status 1, without a
traceback. So its message says what was wrong and what to do, in one or two plain sentences.
Subclasses live beside the code that raises them.
"""

import difflib
from collections.abc import Iterable


class FiboError(Exception):
    """Something the user gave, or the machine lacks, stops the work; the message says what to do."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one where there is one, else all of them, if few."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}." if 0 < len(names) <= 30 else ""
