"""The line that training prints for every epoch."""

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fibo_robot.training.callbacks.history import History


def test_epoch_line_tells_elapsed_and_remaining_time_of_this_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed after the 4th of 10 epochs: what is left is reckoned from this run's epochs alone."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainer = cast(
        Any,
        SimpleNamespace(
            current_epoch=4,
            max_epochs=10,
            global_step=1,
            check_val_every_n_epoch=1,
            callback_metrics={"train/loss": 0.5},
            is_global_zero=True,
        ),
    )
    history = History(tmp_path)
    clock[0] += 300  # reading the data is no part of an epoch
    history.on_train_start(trainer, cast(Any, None))
    lines = []
    for epoch, seconds in ((4, 40), (5, 20), (9, 90)):
        trainer.current_epoch, clock[0] = epoch, clock[0] + seconds
        history.on_train_epoch_end(trainer, cast(Any, None))
        lines += re.findall(r"\((.*)\)", capsys.readouterr().out)
    assert lines == ["40 s, about 3 min 20 s left", "1 min, about 2 min left", "2 min 30 s"]
