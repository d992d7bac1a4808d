"""The one base class for errors that a user can act on.

The `fibo` command prints the message of a :class:`FiboError` and exits with status 1, without a
traceback. So its message says what was wrong and what to do, in one or two plain sentences.
Subclasses live beside the code that raises them.
"""


class FiboError(Exception):
    """Something the user gave, or the machine lacks, stops the work; the message says what to do."""
