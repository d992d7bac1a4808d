"""The simulator: episodes depend on their seed alone, pictures are right side up, experts succeed."""

import logging
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fibo_robot.envs import TASKS, get_task
from fibo_robot.envs.controllers import osc_pose_controller
from fibo_robot.envs.demonstrations.experts import get_expert
from fibo_robot.envs.demonstrations.skills import perform_skill
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def lift() -> Iterator[SimulationEnv]:
    env = get_task("lift").make_env()
    yield env
    env.close()


def play(env: SimulationEnv, seed: int, steps: int = 3) -> np.ndarray:
    """States of an episode of random actions."""
    generator = np.random.default_rng(seed)
    env.start(seed)
    states = [env.get_state()]
    for _ in range(steps):
        env.advance(generator.uniform(-1, 1, env.task.action.dim))
        states.append(env.get_state())
    return np.array(states)


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_alone_decides_an_episode(name: str) -> None:
    task = get_task(name)
    env = task.make_env(list(task.low_dim))
    try:
        first = play(env, 3)
        other = play(env, 4, steps=7)
        np.testing.assert_array_equal(play(env, 3), first)
        assert not np.array_equal(other[0], first[0])
        assert env.observation_space.contains(env.observe())
        assert env.action_space.shape == (env._robosuite.action_dim,)
    finally:
        env.close()


def test_another_environment_plays_the_same_episode(lift: SimulationEnv) -> None:
    play(lift, 8)
    task = get_task("lift")
    env = task.make_env(list(task.low_dim))
    np.testing.assert_array_equal(play(env, 5), play(lift, 5))
    assert env.model_xml == lift.model_xml
    env.close()


def test_actions_replay_to_the_same_states_from_the_first_state(lift: SimulationEnv) -> None:
    states, model = play(lift, 6, steps=5), lift.model_xml
    play(lift, 7)
    lift.take_geometry(model)
    lift.reset_to(states[0])
    generator = np.random.default_rng(6)
    for state in states[1:]:
        lift.advance(generator.uniform(-1, 1, 7))
        np.testing.assert_array_equal(lift.get_state(), state)


def test_looking_does_not_change_what_happens(lift: SimulationEnv) -> None:
    unseen = play(lift, 9)
    generator = np.random.default_rng(9)
    lift.reset(seed=9)
    for state in unseen[1:]:
        lift.step(generator.uniform(-1, 1, 7))
        np.testing.assert_array_equal(lift.get_state(), state)


def test_a_recorded_state_looks_as_it_did_live(lift: SimulationEnv) -> None:
    state = play(lift, 10)[-1]
    live, model = lift.observe(), lift.model_xml
    play(lift, 11)
    lift.take_geometry(model)
    lift.show_state(state)
    shown = lift.observe()
    for key in lift.obs_keys:
        np.testing.assert_array_equal(shown[key], live[key], err_msg=key)


def test_pictures_equal_robosuites_own_right_side_up() -> None:
    # At full quality ours is robosuite's picture turned the right way up (OpenGL's first row is the bottom).
    task = get_task("lift", quality=RenderQuality(shadows=True, reflections=True, multisamples=4))
    env = task.make_env(["agentview_image"])
    picture = env.reset(seed=1)[0]["agentview_image"].transpose(1, 2, 0)
    generator, state = np.random.default_rng(1), env.get_state()
    env.close()
    import robosuite

    settings = {**task.robosuite_kwargs(), "has_offscreen_renderer": True, "hard_reset": True}
    reference = robosuite.make("Lift", **settings, seed=0)
    reference.rng.bit_generator.state = generator.bit_generator.state
    reference.reset()  # builds the model of this seed's cube
    reference.sim.set_state_from_flattened(state)
    reference.sim.forward()
    expected = reference.sim.render(width=84, height=84, camera_name="agentview")[::-1]
    assert np.abs(picture.astype(int) - expected).max() <= 2
    # The wall is grey and dark, the table below it white: a picture upside down would be the other way round.
    assert picture[2, 2].max() < 150 < picture[70, 40].min()
    reference.close()


def test_gymnasium_makes_it_and_the_horizon_truncates() -> None:
    env = gymnasium.make("fibo_robot/Lift-v0", task=get_task("lift", horizon=2), obs_keys=["robot0_eef_pos"])
    observation, info = env.reset(seed=0)
    assert set(observation) == {"robot0_eef_pos"} and info == {"success": False}
    outcomes = [env.step(np.zeros(7, np.float32))[2:4] for _ in range(2)]
    assert outcomes == [(False, False), (False, True)]
    env.close()


def test_gymnasium_makes_it_with_a_render_mode() -> None:
    env = gymnasium.make("fibo_robot/Lift-v0", obs_keys=["robot0_eef_pos"], render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert (picture.shape, picture.dtype, env.render_mode) == ((256, 256, 3), np.uint8, "rgb_array")
    assert picture.std() > 20
    env.close()
    with pytest.raises(FiboError, match="no 'human'"):
        gymnasium.make("fibo_robot/Lift-v0", render_mode="human")


def test_unknown_observation_is_refused_before_the_simulator_starts() -> None:
    with pytest.raises(FiboError, match="'agentview_image'"):
        SimulationEnv(get_task("lift"), ["agentview_imag"])


@pytest.mark.parametrize(
    ("action", "wrong"),
    [
        (np.array([0, 0, np.nan, 0, 0, 0, 0]), "entry 2 is NaN"),
        (np.array([1.0]), r"shape \(7,\), not \(1,\)"),
        (np.ones(()), r"shape \(7,\), not \(\)"),
        (np.zeros((2, 7)), r"shape \(7,\), not \(2, 7\)"),
    ],
)
def test_what_is_no_action_is_refused_before_anything_moves(
    lift: SimulationEnv, action: np.ndarray, wrong: str
) -> None:
    lift.start(0)
    before = lift.get_state()
    with pytest.raises(FiboError, match=wrong):
        lift.step(action)
    np.testing.assert_array_equal(lift.get_state(), before)
    assert lift.steps == 0


def test_transport_moves_in_the_world_frame() -> None:
    # The two bases are turned by +90 and -90 degrees: in base frames the arms would move against each other.
    task = get_task("transport")
    env = task.make_env(["robot0_eef_pos", "robot1_eef_pos"])
    before, _ = env.reset(seed=0)
    action = np.zeros(14)
    action[[0, 7]] = 1.0  # +x for both
    for _ in range(3):
        env.advance(action)
    for key, position in env.observe().items():
        moved = position - before[key]
        assert moved[0] > 0.015 and np.abs(moved[1:]).max() < 0.01, key
    env.close()


def test_robosuite_stays_quiet(lift: SimulationEnv, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("robosuite_logs").warning("no private macro file")
    assert not caplog.records


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_lift_expert_succeeds(lift: SimulationEnv, noise: float) -> None:
    for seed in range(4):
        expert, generator = get_expert("lift"), np.random.default_rng(seed)
        lift.start(seed)
        success = False
        for _ in range(150):
            action = expert.act(lift)
            action[:6] += noise * generator.standard_normal(6)
            success = lift.advance(action).success
            if success:
                break
        assert success, f"seed {seed}"


def test_a_skill_is_its_partner_played_backwards(lift: SimulationEnv) -> None:
    rightwards = perform_skill(lift, "move_right", seed=5)
    leftwards = perform_skill(lift, "move_left", seed=5)
    assert len(rightwards) == 16
    np.testing.assert_array_equal(rightwards, leftwards[::-1])
    assert not np.array_equal(rightwards[0], rightwards[-1])


@pytest.mark.warp
@pytest.mark.slow  # Warp compiles its kernels on first use
def test_warp_draws_the_same_scene_as_opengl(lift: SimulationEnv) -> None:
    env = get_task("lift", renderer="warp").make_env([])
    for renderer in (lift, env):
        renderer.start(12)
    for camera in env.task.cameras:
        traced = env.render_image(camera, 84, 84).astype(int)
        drawn = lift.render_image(camera, 84, 84).astype(int)
        # Shading differs; what is red by hue, dark or bright, must be the same pixels up to the edge.
        cubes = [(image[..., 0] > 2 * image[..., 1]) & (image[..., 0] > 25) for image in (traced, drawn)]
        overlap = (cubes[0] & cubes[1]).sum() / (cubes[0] | cubes[1]).sum()
        assert overlap > 0.6, camera
    # A cube that has been resized since its model went to Warp's device is drawn in its new size.
    small = lift.model_xml
    size = " ".join(map(repr, lift.scene()["cube_size"].tolist()))
    for renderer in (lift, env):
        red = []
        for model in (small, small.replace(size, "0.05 0.05 0.05")):
            renderer.take_geometry(model)
            picture = renderer.render_image("agentview", 84, 84).astype(int)
            red.append(((picture[..., 0] > 2 * picture[..., 1]) & (picture[..., 0] > 25)).sum())
        assert red[1] > 3 * red[0] > 0, renderer.task.renderer
    env.close()


def test_an_absolute_pose_beyond_one_metre_is_where_the_arm_goes() -> None:
    controller = osc_pose_controller()
    controller["body_parts"]["right"]["input_type"] = "absolute"
    env = get_task("lift", cameras=(), controller=controller, action=ActionSpec.poses()).make_env()
    try:
        env.start(seed=3)
        arm = env._robosuite.robots[0].composite_controller.get_controller("right")
        target = arm.ref_pos + np.array([0.0, 0.0, 0.15])
        assert target[2] > 1.1, "the test means a height that a bound of 1 would have cut"
        rotation = Rotation.from_matrix(arm.ref_ori_mat).as_rotvec()
        for _ in range(60):
            env.advance(np.concatenate([target, rotation, [-1.0]]))
        np.testing.assert_allclose(env.observe(["robot0_eef_pos"])["robot0_eef_pos"], target, atol=0.005)
        assert env.action_space.contains(np.array([0, 0, 1.2, np.pi, 0, 0, 1], np.float32))
    finally:
        env.close()
