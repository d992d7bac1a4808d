"""Scripted experts: they succeed in the simulator, and a kinematic toy shows how they recover."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.experts import get_expert
from fibo_robot.envs.demonstrations.experts.arm import (
    OPEN,
    POSITION_SCALE,
    ROTATION_SCALE,
    ArmState,
    Pose,
    heading,
    servo,
)
from fibo_robot.envs.demonstrations.experts.can import CanExpert
from fibo_robot.envs.demonstrations.experts.square import SquareExpert
from fibo_robot.envs.demonstrations.experts.stack import StackExpert
from fibo_robot.envs.demonstrations.record import run_expert
from fibo_robot.errors import FiboError

DOWN = Rotation.from_euler("x", np.pi)


class ToyWorld:
    """A hand that moves by a quarter of each delta; its fingers carry the body `held` once they are closed.

    Nothing falls and nothing collides: what the hand lets go stays where it is.
    """

    def __init__(self, bodies: Mapping[str, np.ndarray], held: str, thickness: float) -> None:
        self.bodies = {name: (np.array(at), Rotation.identity()) for name, at in bodies.items()}
        self.held, self.thickness = held, thickness
        self.position, self.rotation, self.opening = np.array([0.0, 0.0, 1.0]), DOWN, 0.08
        self.grasped = False

    def observe(self, obs_keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        del obs_keys
        half = self.opening / 2
        return {
            "robot0_eef_pos": self.position,
            "robot0_eef_quat": self.rotation.as_quat(),
            "robot0_gripper_qpos": np.array([half, -half]),
        }

    def body_pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        position, rotation = self.bodies[name]
        return position.copy(), rotation.as_quat()

    def step(self, action: np.ndarray) -> None:
        moved = 0.25 * POSITION_SCALE * action[:3]
        turned = Rotation.from_rotvec(0.25 * ROTATION_SCALE * action[3:6])
        at, facing = self.bodies[self.held]
        if self.grasped:
            at = self.position + turned.apply(at - self.position) + moved
            self.bodies[self.held] = (at, turned * facing)
        self.position, self.rotation = self.position + moved, turned * self.rotation
        near = np.linalg.norm(at - self.position) < 0.09
        stop = self.thickness if near else 0.0
        self.opening = float(np.clip(self.opening - 0.02 * action[6], stop, 0.08))
        self.grasped = bool(near and action[6] > 0 and self.opening <= self.thickness)


CUBES = {"cubeA_main": np.array([0.1, 0.05, 0.83]), "cubeB_main": np.array([-0.05, -0.1, 0.835])}


def play(
    world: ToyWorld, expert: StackExpert, steps: int, disturb: Callable[[int], None] = lambda step: None
) -> list[str]:
    """Phases of an episode, each named once while it lasts."""
    phases: list[str] = []
    for step in range(steps):
        disturb(step)
        world.step(expert.act(world))
        if not phases or phases[-1] != expert.phase:
            phases.append(expert.phase)
        if expert.phase == "retreat":
            break
    return phases


def test_a_stack_is_built_phase_by_phase() -> None:
    world = ToyWorld(CUBES, "cubeA_main", 0.04)
    phases = play(world, StackExpert(), 200)
    assert phases == ["hover", "descend", "close", "raise", "carry", "lower", "release", "retreat"]
    small, large = world.bodies["cubeA_main"][0], world.bodies["cubeB_main"][0]
    np.testing.assert_allclose(small - large, [0.0, 0.0, 0.045], atol=0.012)


def test_a_cube_that_slips_out_is_fetched_again() -> None:
    world = ToyWorld(CUBES, "cubeA_main", 0.04)
    expert = StackExpert()
    lost: list[int] = []

    def drop(step: int) -> None:
        if expert.phase == "carry" and not lost:
            world.bodies["cubeA_main"] = (np.array([0.12, 0.1, 0.83]), Rotation.identity())
            world.grasped = False
            lost.append(step)

    phases = play(world, expert, 400, drop)
    assert lost and phases[4:6] == ["carry", "hover"]
    assert phases[5:] == ["hover", "descend", "close", "raise", "carry", "lower", "release", "retreat"]
    small, large = world.bodies["cubeA_main"][0], world.bodies["cubeB_main"][0]
    np.testing.assert_allclose(small - large, [0.0, 0.0, 0.045], atol=0.012)


def test_fingers_that_cannot_close_are_lifted_and_tried_again() -> None:
    world = ToyWorld(CUBES, "cubeA_main", 0.078)  # something keeps them open
    phases = play(world, StackExpert(), 120)
    assert phases[:4] == ["hover", "descend", "close", "hover"]


def test_a_hand_beside_and_below_goes_up_before_it_goes_sideways() -> None:
    world = ToyWorld(CUBES, "cubeA_main", 0.04)
    world.position = np.array([-0.1, 0.0, 0.83])
    action = StackExpert().act(world)
    np.testing.assert_allclose(action[:3], [0.0, 0.0, 1.0], atol=1e-9)


def test_a_lying_can_is_gripped_across_its_axis() -> None:
    world = ToyWorld({"Can_main": np.array([0.1, -0.2, 0.83])}, "Can_main", 0.05)
    along = 0.6
    axis_in_the_plane = Rotation.from_euler("z", along) * Rotation.from_euler("y", np.pi / 2)
    world.bodies["Can_main"] = (np.array([0.1, -0.2, 0.83]), axis_in_the_plane)
    grip = CanExpert().grip(world, ArmState.of(world))
    assert np.sin(grip.yaw - along) == pytest.approx(0.0, abs=1e-6)  # fingers close along y, across x
    world.bodies["Can_main"] = (np.array([0.1, -0.2, 0.86]), Rotation.from_euler("z", 1.0))
    assert CanExpert().grip(world, ArmState.of(world)).position[2] > 0.87  # a standing one near its top


@pytest.mark.parametrize("yaw", np.linspace(-np.pi, np.pi, 9))
def test_the_nut_is_placed_with_its_handle_towards_the_robot(yaw: float) -> None:
    lying, peg = np.array([-0.1, 0.15, 0.83]), np.array([0.23, 0.1, 0.85])
    world = ToyWorld({"SquareNut_main": lying, "peg1": peg}, "SquareNut_main", 0.03)
    nut = Rotation.from_euler("z", yaw)
    world.bodies["SquareNut_main"] = (lying, nut)
    expert = SquareExpert()
    arm = ArmState.of(world)
    grip = expert.grip(world, arm)
    # Somewhere on the handle, and turned along it.
    out = nut.inv().apply(grip.position - lying)
    assert 0.05 < out[0] < 0.079 and abs(out[1]) < 1e-9
    assert np.sin(grip.yaw - yaw) == pytest.approx(0.0, abs=1e-6)
    # Turned as one with the hand from the grip to the place, the handle points to -x.
    held = ArmState(grip.position, Rotation.from_euler("z", grip.yaw) * DOWN, 0.03)
    place = expert.place(world, Pose(lying, nut), held)
    handle = Rotation.from_euler("z", place.yaw - grip.yaw).apply(nut.apply([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(handle, [-1.0, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(("start", "goal"), [(3.0, -1.5), (-1.5, 3.0), (0.0, np.pi), (3.3, 0.0), (1.0, -0.5)])
def test_the_wrist_turns_the_way_that_does_not_lead_through_its_stop(start: float, goal: float) -> None:
    world = ToyWorld({"": np.zeros(3)}, "", 0.0)
    world.rotation = Rotation.from_euler("z", start) * DOWN
    turned, before = start, heading(world.rotation)
    for _ in range(150):
        world.step(servo(ArmState.of(world), world.position, goal, OPEN))
        now = heading(world.rotation)
        turned += (now - before + np.pi) % (2 * np.pi) - np.pi
        before = now
        assert -2.3 < turned < 4.0
    assert turned == pytest.approx(goal, abs=0.02)


def test_a_task_without_an_expert_is_named() -> None:
    with pytest.raises(FiboError, match="no scripted expert for the task 'transport', only for lift, can"):
        get_expert("transport")


@pytest.mark.sim
def test_poses_are_those_of_the_state_shown_last() -> None:
    env = get_task("can").make_env(())
    env.start(0)
    shown = []
    address = env._robosuite.sim.model.get_joint_qpos_addr("Can_joint0")[0] + 1  # after the time
    for position in ([0.1, -0.2, 0.9], [0.2, 0.3, 1.0]):
        state = env.get_state()
        state[address : address + 3] = position
        state[address + 3 : address + 7] = [np.cos(0.3), 0.0, 0.0, np.sin(0.3)]
        env.show_state(state)
        at, quaternion = env.body_pose("Can_main")
        np.testing.assert_allclose(at, position)
        np.testing.assert_allclose(quaternion, [0.0, 0.0, np.sin(0.3), np.cos(0.3)])
        shown.append(at)
    assert not np.array_equal(*shown)  # the first look is no view into the simulator's memory
    with pytest.raises(ValueError, match="Cup"):
        env.body_pose("Cup_main")
    env.close()


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("task", ["can", "square", "stack"])
def test_experts_succeed_on_most_seeds_with_noise_and_without(task: str) -> None:
    env = get_task(task).make_env(list(get_task(task).low_dim))
    played = [run_expert(env, seed, noise) for noise in (0.0, 0.1) for seed in (300, 301)]
    env.close()
    assert sum(demonstration is not None for demonstration in played) >= 3


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "body", "target", "offset", "tolerance"),
    [
        # In its compartment, upright on the floor.
        ("can", "Can_main", "VisualCan_main", (0.0, 0.0, 0.0), (0.07, 0.07, 0.02)),
        # Flat on the table around the peg, whose centre is 2 cm above a lying nut's.
        ("square", "SquareNut_main", "peg1", (0.0, 0.0, -0.02), (0.01, 0.01, 0.02)),
        # On top, over the other cube's middle.
        ("stack", "cubeA_main", "cubeB_main", (0.0, 0.0, 0.045), (0.015, 0.015, 0.004)),
    ],
)
def test_experts_leave_the_object_where_it_belongs(
    task: str, body: str, target: str, offset: tuple[float, ...], tolerance: tuple[float, ...]
) -> None:
    env = get_task(task).make_env(list(get_task(task).low_dim))
    demonstration = run_expert(env, 310, 0.0)
    assert demonstration is not None
    for _ in range(10):  # it stays there when the hand has gone
        env.advance(np.array([0.0, 0.0, 0.5, 0.0, 0.0, 0.0, -1.0]))
    there, _ = env.body_pose(body)
    wanted, _ = env.body_pose(target)
    assert (np.abs(there - wanted - offset) < tolerance).all()
    assert env.success
    assert env.observe(["robot0_gripper_qpos"])["robot0_gripper_qpos"][0] > 0.035  # let go
    env.close()
