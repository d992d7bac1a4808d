"""An export holds the task's own model to the last bit, and refuses what it cannot stand for."""

import dataclasses
import json
import zipfile
from pathlib import Path

import mujoco
import numpy as np
import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.tasks import osc_pose_controller
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting import from_robosuite
from fibo_robot.envs.warp.exporting.export import TaskExport, cache_folder
from fibo_robot.envs.warp.exporting.from_robosuite import cached_export, export_task
from tests.envs.warp.conftest import LIFT

pytestmark = [pytest.mark.sim, pytest.mark.warp]


@pytest.fixture(scope="module")
def saved(lift_export: TaskExport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.zip"
    lift_export.save(path)
    return path


def test_a_saved_export_is_the_tasks_own_model(
    saved: Path, lift_export: TaskExport, lift: SimulationEnv
) -> None:
    loaded = TaskExport.load(saved)
    assert loaded == lift_export
    model, own = loaded.mujoco_model(), lift._model
    for name in ("geom_size", "body_mass", "geom_friction", "actuator_ctrlrange", "mesh_vert", "tex_data"):
        if name not in ("geom_size", "body_mass"):  # the cube's change with the seed
            np.testing.assert_array_equal(getattr(model, name), getattr(own, name))
    assert model.ngeom == own.ngeom and model.opt.timestep == own.opt.timestep
    (arm,) = loaded.arms
    assert [model.joint(index).name for index in arm.joints] == [f"robot0_joint{n}" for n in range(1, 8)]
    assert model.site(arm.site).name == "gripper0_right_grip_site"


def with_notes(source: Path, target: Path, **changes: object) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "export.json":
                content = json.dumps({**json.loads(content), **changes}).encode()
            new.writestr(name, content)
    return target


def test_an_export_of_another_mujoco_is_refused(saved: Path, tmp_path: Path) -> None:
    other = with_notes(saved, tmp_path / "model.zip", versions={"mujoco": "3.3.0"})
    with pytest.raises(WarpError, match=rf"with mujoco 3\.3\.0 .* read with mujoco {mujoco.__version__}"):
        TaskExport.load(other)


def test_a_damaged_or_missing_export_is_refused(saved: Path, tmp_path: Path) -> None:
    cut = tmp_path / "model.zip"
    cut.write_bytes(saved.read_bytes()[:1000])
    for path in (cut, tmp_path / "none.zip"):
        with pytest.raises(WarpError, match="cannot be read as an exported task"):
            TaskExport.load(path)


def test_an_export_is_only_used_for_what_it_was_made_of(lift_export: TaskExport) -> None:
    lift_export.check_fits(get_task("lift", horizon=7))
    with pytest.raises(WarpError, match="another control_freq than the task lift"):
        lift_export.check_fits(get_task("lift", control_freq=10))
    assert cache_folder(get_task("lift", horizon=7)) == cache_folder(LIFT)
    assert cache_folder(get_task("lift", control_freq=10)) != cache_folder(LIFT)


def test_a_machine_without_robosuite_uses_the_file_or_says_what_is_missing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_robosuite.importlib.util, "find_spec", lambda name: None)
    assert cached_export(LIFT, saved.parent).arms[0].prefix == "robot0"
    with pytest.raises(WarpError, match=r"not exported at .* and robosuite is not installed"):
        cached_export(LIFT, tmp_path)


def test_a_controller_without_counterpart_is_refused() -> None:
    controller = osc_pose_controller()
    controller["body_parts"]["right"]["input_ref_frame"] = "base"
    with pytest.raises(WarpError, match="no actions in the frame base, which the task lift uses"):
        export_task(dataclasses.replace(LIFT, controller=controller))


def test_a_task_without_success_rule_is_refused_before_the_simulator_starts() -> None:
    with pytest.raises(WarpError, match=r"\(Door\) has no success rule for batched simulation"):
        export_task(dataclasses.replace(LIFT, name="door", env_name="Door"))
