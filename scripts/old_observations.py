"""Record what robosuite 1.4.1 says of a few of its own states: the ground truth of tests of older files.

It runs in an environment of its own, without this package, and writes the file that the tests read:
    pip install --no-deps robosuite==1.4.1 mujoco==3.2.3 numpy==1.26.4 scipy numba llvmlite pillow termcolor
    python scripts/old_observations.py tests/envs/robosuite_1_4_1.json
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np
import robosuite
from robosuite.utils import transform_utils

TASKS = {
    "Lift": 1,
    "PickPlaceCan": 1,
    "NutAssemblySquare": 1,
    "Stack": 1,
    "PickPlace": 1,
    "ToolHang": 1,
    "TwoArmTransport": 2,
}
STEPS = 12
KEPT = (0, 5, 11)  # steps whose states and observations are kept
_OF_ROBOTS = re.compile(r"(robot|gripper|mount|fixed_mount)\d+_")


def make(env_name, arms, delta):
    """The environment as robomimic makes it, and the arguments."""
    controller = robosuite.load_controller_config(default_controller="OSC_POSE")  # pyright: ignore[reportAttributeAccessIssue]: 1.4.1 has it
    controller["control_delta"] = delta
    kwargs = {
        "robots": ["Panda"] * arms,
        "controller_configs": [controller] * arms,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "reward_shaping": False,
        "control_freq": 20,
    }
    np.random.seed(0)
    return robosuite.make(env_name, **kwargs), kwargs


def act(step, robot, start, aim, delta, generator):
    """One arm's action: deltas in a direction of its own, or a pose on a line from where it began."""
    if delta:
        return np.clip(aim + 0.3 * generator.standard_normal(7), -1, 1)
    position, rotation = start
    turn = transform_utils.quat2mat(transform_utils.axisangle2quat(0.05 * aim[3:6] * (step + 1)))
    pose = transform_utils.quat2axisangle(transform_utils.mat2quat(turn @ rotation))
    return np.concatenate([position + 0.01 * aim[:3] * (step + 1), pose, [np.sign(aim[6])]])


def look(env):
    """robosuite's own observations of the present state, each by name, and `object` as it stores it."""
    env._get_observations(force_update=True)
    seen = env._get_observations(force_update=True)
    kept = {
        name: np.ravel(value).tolist() for name, value in seen.items() if not name.endswith("proprio-state")
    }
    kept["object"] = kept.pop("object-state")
    return kept


def scene(xml):
    """The scene's model without robots and what is only seen."""
    root = ElementTree.fromstring(xml)
    for part in list(root):
        if part.tag != "worldbody":
            root.remove(part)
    for parent in list(root.iter()):
        for child in list(parent):
            if _OF_ROBOTS.match(child.get("name", "")):
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def record(env_name, arms, delta):
    env, kwargs = make(env_name, arms, delta)
    np.random.seed(1)
    env.reset()
    generator = np.random.default_rng(0)
    aims = generator.uniform(-1, 1, (arms, 7))
    starts = [(np.array(r.controller.ee_pos), np.array(r.controller.ee_ori_mat)) for r in env.robots]
    rows = {"states": [], "actions": [], "hands": [], "observations": []}
    for step in range(STEPS):
        seen = look(env)
        rows["hands"].append([seen[f"robot{arm}_eef_pos"] for arm in range(arms)])
        if step in KEPT:
            rows["states"].append(env.sim.get_state().flatten().tolist())
            rows["observations"].append(seen)
        parts = zip(env.robots, starts, aims)
        action = np.concatenate([act(step, r, start, aim, delta, generator) for r, start, aim in parts])
        rows["actions"].append(action.tolist())
        env.step(action)
        env.sim.forward()
    return {"env_name": env_name, "env_kwargs": kwargs, "model_file": scene(env.sim.model.get_xml()), **rows}


if __name__ == "__main__":
    recordings = [record(env_name, arms, delta=True) for env_name, arms in TASKS.items()]
    recordings += [record(env_name, TASKS[env_name], delta=False) for env_name in ("Lift", "TwoArmTransport")]
    made = {"robosuite": robosuite.__version__, "mujoco": mujoco.__version__, "kept_steps": KEPT}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({**made, "recordings": recordings}, file)
