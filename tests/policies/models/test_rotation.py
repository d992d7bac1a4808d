"""Rotations survive the way to six numbers and back, and six numbers have no seam where axis-angle jumps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fibo_robot.interfaces import ActionSpec
from fibo_robot.policies.models.rotation import (
    ActionTransform,
    RotationError,
    axis_angle_from_6d,
    axis_angle_to_6d,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
)

# Angles that are easy to get wrong: none, tiny, just off pi, and past it.
ANGLES = st.one_of(
    st.floats(0, 2 * np.pi),
    st.sampled_from([0.0, 1e-8, 1e-4, np.pi - 1e-3, np.pi - 1e-6, np.pi, np.pi + 1e-3, 2 * np.pi]),
)
AXES = st.one_of(
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: np.linalg.norm(axis) > 0.1),
    st.sampled_from([(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, 1.0)]),
)


def vector(axis: tuple[float, ...], angle: float) -> np.ndarray:
    return angle * np.array(axis) / np.linalg.norm(axis)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest angle, radians, between rotations given as axis-angle vectors, by scipy."""
    rotations = [Rotation.from_rotvec(given.double().reshape(-1, 3).numpy()) for given in (one, other)]
    return float((rotations[0].inv() * rotations[1]).magnitude().max())


@settings(deadline=None, max_examples=150)
@given(AXES, ANGLES)
def test_the_matrix_is_scipys(axis: tuple[float, ...], angle: float) -> None:
    given = vector(axis, angle)
    matrix = axis_angle_to_matrix(torch.from_numpy(given))
    np.testing.assert_allclose(matrix.numpy(), Rotation.from_rotvec(given).as_matrix(), atol=1e-12)


@settings(deadline=None, max_examples=150)
@given(AXES, ANGLES, st.sampled_from([torch.float32, torch.float64]))
def test_a_rotation_comes_back(axis: tuple[float, ...], angle: float, dtype: torch.dtype) -> None:
    given = torch.from_numpy(vector(axis, angle)).to(dtype)
    back = axis_angle_from_6d(axis_angle_to_6d(given))
    assert back.dtype == dtype
    assert difference(given, back) < 1e-5
    assert back.norm() <= np.pi + 1e-5
    if angle < np.pi - 0.01:  # beyond, the opposite vector is the same rotation
        torch.testing.assert_close(back, given, atol=1e-5, rtol=0)


def test_batches_of_random_rotations_come_back() -> None:
    quaternions = np.random.default_rng(0).normal(size=(4000, 4))  # uniform over all rotations
    given = torch.from_numpy(Rotation.from_quat(quaternions).as_rotvec()).float().reshape(40, 100, 3)
    six = axis_angle_to_6d(given)
    assert six.shape == (40, 100, 6)
    assert difference(given, axis_angle_from_6d(six)) < 1e-5
    columns = Rotation.from_rotvec(given.reshape(-1, 3).numpy()).as_matrix()[:, :, :2]
    np.testing.assert_allclose(six.reshape(-1, 2, 3).numpy(), columns.transpose(0, 2, 1), atol=1e-6)


def test_whatever_a_network_predicts_is_a_rotation_and_close_to_it() -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(500, 6, generator=generator)
    matrices = axis_angle_to_matrix(axis_angle_from_6d(given))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(500, 3, 3), atol=1e-5, rtol=0)
    # Gram and Schmidt keep the first column's direction.
    first = torch.nn.functional.normalize(given[:, :3], dim=-1)
    torch.testing.assert_close(matrices[:, :, 0], first, atol=1e-5, rtol=0)


def test_six_numbers_have_no_seam_where_axis_angle_jumps() -> None:
    """A hand that points down and rocks by a tenth of a degree to either side."""
    down = Rotation.from_rotvec([np.pi, 0, 0])
    sides = [down * Rotation.from_rotvec([side * np.radians(0.1), 0, 0]) for side in (-1, 1)]
    vectors = torch.tensor(np.array([side.as_rotvec() for side in sides]))
    assert (vectors[0] - vectors[1]).norm() > 6
    six = axis_angle_to_6d(vectors)
    assert (six[0] - six[1]).norm() < 0.01


def test_quaternions_of_every_branch_are_right() -> None:
    half_turns = torch.tensor(np.pi * np.eye(3))
    for half_turn in half_turns:
        assert difference(half_turn, matrix_to_axis_angle(axis_angle_to_matrix(half_turn))) < 1e-6


@pytest.mark.parametrize("arms", [1, 2])
def test_every_arms_rotation_is_transformed_and_nothing_else(arms: int) -> None:
    generator = torch.Generator().manual_seed(1)
    actions = torch.randn(5, 8, arms, 7, generator=generator)
    transform = ActionTransform(ActionSpec.poses(arms), "6d")
    inside = transform.encode(actions.flatten(-2))
    assert inside.shape == (5, 8, 10 * arms) and transform.dim == 10 * arms
    parts = inside.unflatten(-1, (arms, 10))
    assert torch.equal(parts[..., :3], actions[..., :3]) and torch.equal(parts[..., 9], actions[..., 6])
    assert torch.equal(parts[..., 3:9], axis_angle_to_6d(actions[..., 3:6]))
    back = transform.decode(inside).unflatten(-1, (arms, 7))
    assert torch.equal(back[..., [0, 1, 2, 6]], actions[..., [0, 1, 2, 6]])
    assert difference(back[..., 3:6], actions[..., 3:6]) < 1e-5


@pytest.mark.parametrize(
    ("spec", "rotation"),
    [
        (ActionSpec.deltas(), "6d"),
        (ActionSpec.poses(), "axis_angle"),
        (ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), mode="absolute", rotation="none", arms=0), "6d"),
    ],
)
def test_deltas_and_what_has_no_rotation_stay_as_they_are(spec: ActionSpec, rotation) -> None:
    transform = ActionTransform(spec, rotation)
    actions = torch.randn(3, spec.dim)
    assert transform.dim == spec.dim
    assert transform.encode(actions) is actions and transform.decode(actions) is actions


def test_an_unknown_representation_is_refused() -> None:
    with pytest.raises(RotationError, match="axis_angle or 6d, not 'quaternion'"):
        ActionTransform(ActionSpec.poses(), "quaternion")  # pyright: ignore[reportArgumentType]  # as a config may
    with pytest.raises(RotationError, match="7 entries, not 8"):
        ActionTransform(ActionSpec(8, (-1.0,) * 8, (1.0,) * 8, mode="absolute"), "6d")
