"""Demonstrations are drawn anew by Warp, so that a policy trains on what many worlds will show it."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs.demonstrations import convert
from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.demonstrations.record import Recording, record_demonstrations
from fibo_robot.envs.rendering.settings import SHADING_VERSION
from fibo_robot.envs.tasks import get_task
from tests.envs.demonstrations.opened import keep_last

pytestmark = [pytest.mark.sim, pytest.mark.warp, pytest.mark.slow]


def test_converting_with_warp_goes_on_where_it_stopped_and_says_with_which_shading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, target = tmp_path / "raw.hdf5", tmp_path / "warp.hdf5"
    record_demonstrations(get_task("lift", cameras=()), raw, Recording(episodes=2, seed=40, noise=0.1))
    keep_last(raw, 8)
    command = ["demos", "convert", str(raw), "--output", str(target), "--renderer", "warp"]
    command += ["--image-size", "16", "--workers", "1"]
    write_part, written = convert.write_part, []

    def interrupted(path: Path, demonstration: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write_part(path, demonstration)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(convert, "write_part", interrupted)
    CliRunner().invoke(app, command)
    assert not target.exists() and len(written) == 1
    again: list[str] = []

    def counted(path: Path, demonstration: object) -> None:
        again.append(path.name)
        write_part(path, demonstration)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(convert, "write_part", counted)
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert len(again) == 1 and again != written
    with DemonstrationFile(target) as file:
        task = file.task()
        assert task.renderer == "warp" and task.quality.shading == SHADING_VERSION
        env = task.make_env(["agentview_image"])
        env.take_geometry(file.attributes("demo_1")["model_file"])
        env.show_state(file.states("demo_1")[5])
        expected = env.observe()["agentview_image"].transpose(1, 2, 0)
        np.testing.assert_array_equal(file.observation("demo_1", "agentview_image")[5], expected)
        env.close()
        with DemonstrationFile(raw) as recorded:  # noise was added: what was meant is another array
            meant = recorded.array("demo_1", "expert_actions")[:]
        np.testing.assert_array_equal(file.array("demo_1", "expert_actions")[:], meant)
        assert not np.array_equal(file.actions("demo_1"), meant)
