"""A recorded scene's model is matched with the one built here by name."""

import numpy as np
import pytest

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.robomimic_metadata import task_from_env_args
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.simulation.recorded_model import model_changes, with_changes

BUILT = """<mujoco><asset><mesh name="m" file="/here/m.stl"/></asset><worldbody>
  <body name="robot0_base" pos="0 0 1"><geom name="robot0_g" size="1"/></body>
  <body name="table" pos="0.1 0 0.8"><geom name="top" type="box" size="0.4 0.4 0.025"/>
    <geom size="0.1"/></body>
  <body name="nut" quat="1 0 0 0"><joint name="nut_joint" type="free" damping="0.0005"/>
    <geom name="nut_g" type="box" size="0.123456789 0.1 0.1" rgba="1 0 0 1"/>
    <site name="nut_site" size="0.01"/></body>
</worldbody></mujoco>"""


def recorded(**replaced: tuple[str, str]) -> str:
    text = BUILT.replace("/here/", "/elsewhere/").replace("robot0_g", "robot0_g0")
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return text


def test_what_is_alike_but_for_robots_files_and_rounding_is_no_change() -> None:
    alike = recorded(
        digits=("0.123456789", "0.123457"),
        sign=('quat="1 0 0 0"', 'quat="-1 0 0 0"'),
        site=("nut_site", "mark"),
    )
    assert model_changes(alike, BUILT) == {}
    assert with_changes(BUILT, {}) is BUILT


def test_sizes_places_and_friction_are_taken_by_name() -> None:
    other = recorded(
        size=("0.123456789 0.1", "0.15 0.1"),
        place=('"0.1 0 0.8"', '"0.2 0 0.8"'),
        friction=('type="box" size="0.4', 'friction="2 0.1 0.1" type="box" size="0.4'),
        damping=(' damping="0.0005"', ""),
    )
    changes = model_changes(other, BUILT)
    assert changes == {
        ("body", "table"): {"pos": "0.2 0 0.8"},
        ("geom", "top"): {"friction": "2 0.1 0.1"},
        ("geom", "nut_g"): {"size": "0.15 0.1 0.1"},
        ("joint", "nut_joint"): {"damping": None},
    }
    changed = with_changes(BUILT, changes)
    assert model_changes(other, changed) == {}
    assert "/here/m.stl" in changed and "robot0_g0" not in changed


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name="nut"', 'name="bolt"', "body bolt, body nut"),
        ('<geom name="top"', '<geom name="board"', "geom board, geom top"),
        ('<geom size="0.1"/>', "", "geom table/0"),
        ('<joint name="nut_joint" type="free" damping="0.0005"/>', "", "joint nut_joint"),
    ],
)
def test_a_scene_with_other_parts_is_refused_by_name(old: str, new: str, named: str) -> None:
    with pytest.raises(DatasetError, match=f"cannot be matched .* only one of them has {named}"):
        model_changes(recorded(part=(old, new)), BUILT)


def test_no_model_is_refused() -> None:
    with pytest.raises(DatasetError, match="no XML"):
        model_changes("cube", BUILT)


@pytest.mark.sim
def test_a_body_that_a_reset_moves_travels_with_the_model() -> None:
    # robosuite moves the door's frame in the model, not in the state.
    from robosuite.controllers import load_composite_controller_config

    controller = load_composite_controller_config(robot="Panda")
    kwargs = {"robots": ["Panda"], "controller_configs": controller}
    task = task_from_env_args({"env_name": "Door", "env_kwargs": kwargs}, "door.hdf5")
    first, second = (SimulationEnv(task, ["object"]) for _ in range(2))
    first.start(5)
    second.start(6)
    state, model, seen = first.get_state(), first.model_xml, first.observe()["object"]
    poses = first.scene()["pose of Door_main"], second.scene()["pose of Door_main"]
    assert np.abs(poses[0] - poses[1]).max() > 0.01, "both doors stand at the same place"
    second.take_geometry(model)
    second.show_state(state)
    np.testing.assert_allclose(second.observe()["object"], seen, atol=1e-6)
    second.reset_to(state)
    np.testing.assert_allclose(second.observe()["object"], seen, atol=1e-6)
    second.start(6)
    np.testing.assert_array_equal(second.scene()["pose of Door_main"], poses[1])
    # Without a recorded model it is the one that was built, whatever was played before.
    first.take_geometry(None)
    second.take_geometry(None)
    assert first.scene().keys() == second.scene().keys() == {"state"}
    np.testing.assert_array_equal(first._model.body_pos, second._model.body_pos)
    first.close()
    second.close()
