"""What is said of two renderers' pictures is their difference."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.benchmarks.simulation import pictures
from fibo_robot.envs.tasks import get_task


def test_differences_are_means_over_scenes_and_the_sheet_shows_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.full((84, 84, 3), 100, np.uint8)
    brighter, half = drawn + np.uint8(40), drawn.copy()
    half[:42] -= 20

    def scenes(task: object, seeds: object) -> Iterator[dict]:
        yield {"agentview": (drawn, brighter), "robot0_eye_in_hand": (drawn, drawn)}
        yield {"agentview": (drawn, half), "robot0_eye_in_hand": (drawn, drawn)}

    monkeypatch.setattr(pictures, "_scenes", scenes)
    sheet = tmp_path / "new" / "lift.png"
    agentview, wrist = pictures.compare(get_task("lift"), range(2), sheet)
    assert agentview.case == "lift/agentview" and agentview.scenes == 2
    assert agentview.difference == pytest.approx((40 + 10) / 2) and agentview.spread == (10.0, 40.0)
    assert agentview.changed == pytest.approx(0.5)  # 40 is more than 32, 20 is not
    assert wrist.difference == wrist.changed == 0
    shown = np.asarray(Image.open(sheet))
    middle = pictures._LINE + pictures._CELL // 2
    columns = [pictures._CELL // 2 + index * (pictures._CELL + pictures._MARGIN) for index in range(3)]
    assert [shown[middle, column, 0] for column in columns] == [100, 140, 80]
