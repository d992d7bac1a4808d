"""robosuite's success rules for all worlds at once, with the flags that observations hold of them.

Each is the counterpart of `_check_success` of an environment of robosuite 1.5.2; what it needs of the scene's
geometry comes with the export.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fibo_robot.envs.warp.exporting.export import SuccessRule
from fibo_robot.envs.warp.rules.scene import Scene, constant

# robosuite's `1 - tanh(10 d) < 0.6`: the hand has left the object by so many metres.
_HAND_AWAY = math.atanh(0.4) / 10.0
_HAND = "gripper0_right_grip_site"


@dataclass(frozen=True)
class Judgement:
    """What is the case in each world.

    Attributes:
        success: bool `(W,)`.
        flags: parts of it that are observed, bool `(W,)` by name.
    """

    success: Tensor
    flags: Mapping[str, Tensor]


def judge(env_name: str, rule: SuccessRule, scene: Scene) -> Judgement:
    """Judge the present scenes; raises KeyError for an environment without a rule here."""
    return _RULES[env_name](rule, scene)


def _lift(rule: SuccessRule, scene: Scene) -> Judgement:
    (table,) = rule.numbers["table_height"]
    return Judgement(scene.position("body", "cube_main")[:, 2] > table + 0.04, {})


def _hand_is_away(scene: Scene, position: Tensor) -> Tensor:
    return (scene.position("site", _HAND) - position).norm(dim=-1) > _HAND_AWAY


def _can(rule: SuccessRule, scene: Scene) -> Judgement:
    """Any object in its own bin, and left by the hand."""
    success = torch.zeros(len(scene.qpos), dtype=torch.bool, device=scene.qpos.device)
    for body, corners in rule.numbers.items():
        position = scene.position("body", body)
        low, high = constant(corners[:3], position), constant(corners[3:], position)
        inside = ((low < position) & (position < high)).all(-1)
        success |= inside & _hand_is_away(scene, position)
    return Judgement(success, {})


def _square(rule: SuccessRule, scene: Scene) -> Judgement:
    """Any nut around its own peg and low enough, and left by the hand."""
    success = torch.zeros(len(scene.qpos), dtype=torch.bool, device=scene.qpos.device)
    for body, (x, y, highest) in rule.numbers.items():
        position = scene.position("body", body)
        beside = (position[:, :2] - constant((x, y), position)).abs() < 0.03
        success |= beside.all(-1) & (position[:, 2] < highest) & _hand_is_away(scene, position)
    return Judgement(success, {})


def _stack(rule: SuccessRule, scene: Scene) -> Judgement:
    """Cube A above the table and on cube B, and not between the fingers."""
    (table,) = rule.numbers["table_height"]
    touching = {name: value.bool() for name, value in scene.touching.items()}
    held = touching["cubeA_left"] & touching["cubeA_right"]
    lifted = scene.position("body", "cubeA_main")[:, 2] > table + 0.04
    return Judgement(~held & lifted & touching["cubes"], {})


def _tool_hang(rule: SuccessRule, scene: Scene) -> Judgement:
    """The frame stands in its base, and the tool hangs on the frame."""
    assembled = _frame_is_assembled(scene)
    hanging = _tool_is_on_frame(rule, scene)
    return Judgement(assembled & hanging, {"frame_is_assembled": assembled, "tool_on_frame": hanging})


def _frame_is_assembled(scene: Scene) -> Tensor:
    base = scene.position("geom", "stand_base")
    shaft = torch.nn.functional.normalize(scene.position("site", "stand_mount_site") - base, dim=-1)
    upright = shaft[:, 2].clamp(-1.0, 1.0).acos() < math.pi / 18.0
    names = {scene.model.site(index).name for index in range(scene.model.nsite)}
    end = "frame_tip_site" if "frame_tip_site" in names else "frame_mount_site"
    inserted = (scene.position("site", end) - base).norm(dim=-1) < 0.05
    hook_end = scene.position("site", "frame_mount_site")
    hook = scene.position("site", "frame_intersection_site") - hook_end
    walls = [scene.position("geom", f"stand_wall{index}") - hook_end for index in range(4)]
    between = _opposite(walls[0], walls[2], hook) & _opposite(walls[1], walls[3], hook)
    return upright & inserted & between


def _opposite(first: Tensor, second: Tensor, line: Tensor) -> Tensor:
    """Whether two points lie on opposite sides of a line through the origin."""
    return (torch.linalg.cross(first, line) * torch.linalg.cross(second, line)).sum(-1) < 0


def _tool_is_on_frame(rule: SuccessRule, scene: Scene) -> Tensor:
    hand, hole_touches = (scene.touching[name].bool() for name in ("hand_tool", "hole_hook"))
    end = scene.position("site", "frame_hang_site")
    hook = scene.position("site", "frame_intersection_site") - end
    length = hook.norm(dim=-1)
    direction = hook / length[:, None]
    hole = scene.position("site", "tool_hole1_center") - end
    along = (hole * direction).sum(-1)
    (reach,) = rule.numbers["reach"]
    close = (hole - along[:, None] * direction).norm(dim=-1) < reach
    opposite_hole = int(rule.numbers["hole_geoms"][0]) // 2
    sides = [scene.position("geom", f"tool_hole1_hc_{index}") - end for index in (0, opposite_hole)]
    through = _opposite(sides[0], sides[1], direction)
    share = along / length
    return ~hand & hole_touches & close & through & (share > 0.05) & (share < 1.0)


def _transport(rule: SuccessRule, scene: Scene) -> Judgement:
    """The payload touches the floor of its bin, the trash that of its own."""
    flags = {name: value.bool() for name, value in scene.touching.items()}
    return Judgement(flags["payload_in_target_bin"] & flags["trash_in_trash_bin"], flags)


_RULES: dict[str, Callable[[SuccessRule, Scene], Judgement]] = {
    "Lift": _lift,
    "PickPlaceCan": _can,
    "NutAssemblySquare": _square,
    "Stack": _stack,
    "ToolHang": _tool_hang,
    "TwoArmTransport": _transport,
}
