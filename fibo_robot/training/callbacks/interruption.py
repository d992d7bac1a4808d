"""Ctrl-C ends training, also where Python lets the exception fall."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl


class Interruption(pl.Callback):
    """Raises KeyboardInterrupt after a batch in which Ctrl-C came and its exception was lost.

    Python raises it wherever the program is at that moment. In a finaliser, or in a function that C code
    calls, an exception is printed and dropped, and training would go on as if nobody had asked.
    """

    def __init__(self) -> None:
        self._asked = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note every SIGINT, which is handled as before; afterwards the former handler is there again."""
        former = signal.getsignal(signal.SIGINT)
        if not callable(former) or threading.current_thread() is not threading.main_thread():
            yield  # it is ignored, or cannot be watched from here
            return

        def note(number: int, frame: FrameType | None) -> None:
            self._asked = True
            former(number, frame)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            # Lightning ignores further ones once it has turned the first into an exit.
            signal.signal(signal.SIGINT, former)

    def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
        self._end_if_asked()

    def on_validation_batch_end(self, *arguments: Any, **named: Any) -> None:
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt
