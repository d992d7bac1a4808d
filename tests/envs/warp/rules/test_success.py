"""Success and vector observations agree with robosuite's on states that solve the task, and that do not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.utils._python_dispatch import TorchDispatchMode

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.experts import get_expert
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.from_robosuite import export_environment
from fibo_robot.envs.warp.rules.observation import observe
from fibo_robot.envs.warp.rules.scene import Scene
from fibo_robot.envs.warp.rules.success import judge

pytestmark = [pytest.mark.sim, pytest.mark.warp]


def scene_of(env: SimulationEnv, export: TaskExport) -> Scene:
    """The scene of one world, from MuJoCo itself in float64."""
    data = env._robosuite.sim.data._data
    geoms = [set(pair) for pair in data.contact.geom.tolist()]
    touching = {
        name: torch.tensor([any({a, b} in geoms for a in first for b in second)])
        for name, (first, second) in export.success.touching.items()
    }
    arrays = (data.qpos, data.qvel, data.xpos, data.xquat, data.site_xpos, data.geom_xpos)
    return Scene(env._model, *(torch.from_numpy(array[None].copy()) for array in arrays), touching=touching)


def episode(env: SimulationEnv, seed: int) -> Iterator[None]:
    """An expert's episode, or random actions where there is none; and disturbed states."""
    generator = np.random.default_rng(seed)
    expert = None if env.task.name in ("tool_hang", "transport") else get_expert(env.task.name)
    env.start(seed)
    for step in range(200 if expert else 4):
        action = generator.uniform(-1, 1, env.task.action.dim) if expert is None else expert.act(env)
        solved = env.advance(action).success
        if expert is None or step % 8 == 0 or solved:
            state = env.get_state()
            yield
            for size in (0.003, 0.03):
                disturbed = state.copy()
                disturbed[1 : 1 + env._model.nq] += size * generator.normal(size=env._model.nq)
                env.show_state(disturbed)
                yield
            env.show_state(state)
        if solved:
            return


class Operations(TorchDispatchMode):
    """Notes what torch computes within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lift", "can", "square", "stack", "tool_hang", "transport"])
def test_success_and_observations_are_robosuites(name: str) -> None:
    task = get_task(name, cameras=())
    env = task.make_env()
    export = export_environment(task, env)
    outcomes, scene = set(), scene_of(env, export)
    for _ in episode(env, seed=3):
        scene = scene_of(env, export)
        judgement = judge(task.env_name, export.success, scene)
        assert judgement.success.tolist() == [env.success]
        outcomes.add(env.success)
        mine = observe(export, scene, judgement.flags, list(task.low_dim))
        for key, value in env.observe().items():
            np.testing.assert_allclose(mine[key][0], value, atol=2e-6, err_msg=key)
    # Numbers and indices from the host, which a GPU would wait for, were made on the device the first time.
    with Operations() as operations:
        observe(export, scene, judge(task.env_name, export.success, scene).flags, list(task.low_dim))
    assert operations.names and not operations.names & {"lift_fresh", "index", "lift_fresh_copy"}
    if name in ("lift", "can", "square", "stack"):
        assert outcomes == {False, True}
    env.close()


def agree(env: SimulationEnv, export: TaskExport) -> dict[str, bool]:
    """Judge the present scene here and in robosuite; return what is the case."""
    judgement = judge(env.task.env_name, export.success, scene_of(env, export))
    robosuite = env._robosuite
    if env.task.name == "tool_hang":
        own = {"frame_is_assembled": robosuite._check_frame_assembled()}
        own["tool_on_frame"] = robosuite._check_tool_on_frame()
    else:
        things = robosuite.transport
        own = {name: getattr(things, name) for name in ("payload_in_target_bin", "trash_in_trash_bin")}
    own = {name: bool(value) for name, value in own.items()} | {"success": env.success}
    assert {name: bool(value) for name, value in judgement.flags.items()} | {
        "success": bool(judgement.success)
    } == own
    return own


def place(env: SimulationEnv, name: str, position: np.ndarray, rotation: Rotation) -> None:
    """Put a free object, by its joint, into a pose."""
    quaternion = np.roll(rotation.as_quat(), 1)
    env._robosuite.sim.data.set_joint_qpos(f"{name}_joint0", np.concatenate([position, quaternion]))
    env._robosuite.sim.forward()


@pytest.mark.slow
def test_transport_is_solved_when_both_things_touch_their_bins() -> None:
    task = get_task("transport", cameras=())
    env = task.make_env([])
    export = export_environment(task, env)
    env.start(0)
    bins = {"payload": "transport_target_bin_base", "trash": "transport_trash_bin_base"}
    data, found = env._robosuite.sim.data, []

    def put(name: str, height: float) -> dict[str, bool]:
        place(env, name, data.get_geom_xpos(bins[name]) + np.array([0, 0, height]), Rotation.identity())
        found.append(agree(env, export))
        return found[-1]

    flags = {"payload": "payload_in_target_bin", "trash": "trash_in_trash_bin"}
    for name, flag in flags.items():  # each is lowered until it touches, and stays there
        next(height for height in np.linspace(0.2, -0.02, 45) if put(name, height)[flag])
    for name in found[0]:
        assert {flags[name] for flags in found} == {False, True}, name
    env.close()


@pytest.mark.slow
def test_tool_hang_is_solved_when_the_tool_hangs_on_the_assembled_frame() -> None:
    """The frame is put into its base, then the tool's hole over the hook: all ways round are tried."""
    task = get_task("tool_hang", cameras=())
    env = task.make_env([])
    export = export_environment(task, env)
    env.start(0)
    data, generator = env._robosuite.sim.data, np.random.default_rng(0)

    def put(name: str, site: str, target: np.ndarray, rotation: Rotation) -> dict[str, bool]:
        place(env, name, np.array([0.0, 0.0, 2.0]), rotation)
        place(env, name, target - data.get_site_xpos(site) + [0.0, 0.0, 2.0], rotation)
        return agree(env, export)

    # The hole in the stand lies between its walls, beside the middle of its base.
    base = np.mean([data.get_geom_xpos(f"stand_wall{index}") for index in range(4)], axis=0)
    base[2] = data.get_geom_xpos("stand_base")[2] + 0.005
    turns = list(Rotation.create_group("O"))
    found = [put("frame", "frame_tip_site", base, turn) for turn in turns]
    upright = turns[[flags["frame_is_assembled"] for flags in found].index(True)]
    put("frame", "frame_tip_site", base, upright)
    end, start = (data.get_site_xpos(f"frame_{name}_site").copy() for name in ("hang", "intersection"))
    for share in (-0.2, 0.02, 0.5, 0.9):
        for turn in turns:
            for _ in range(4):
                about = end + share * (start - end) + generator.normal(0, 0.004, 3)
                found.append(put("tool", "tool_hole1_center", about, turn))
    for name in found[0]:
        assert {flags[name] for flags in found} == {False, True}, name
    env.close()
