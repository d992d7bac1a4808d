"""Worlds simulated and drawn by MuJoCo Warp, as the batched engine drives them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rendering.warp.cameras import WarpCameras, describe, one_world
from fibo_robot.envs.rollouts.batched.worlds import BatchedStep, Start
from fibo_robot.envs.tasks import Task as SimulatorTask
from fibo_robot.envs.warp import StartStates, WarpTask
from fibo_robot.interfaces import Task


class WarpWorlds:
    """A :class:`fibo_robot.envs.warp.WarpTask` with its pictures.

    Raises:
        RolloutError: the task is none of the simulator's, or is seen through another renderer.
        WarpError: device, versions, task or memory do not allow it.
    """

    def __init__(self, task: Task, num_worlds: int, obs_keys: Sequence[str], device: torch.device) -> None:
        if not isinstance(task, SimulatorTask):
            raise RolloutError(f"MuJoCo Warp simulates robosuite's tasks, not {task.name}.")
        cameras = [key.removesuffix("_image") for key in obs_keys if key in task.image_keys]
        if cameras and task.renderer != "warp":
            raise RolloutError(
                f"The policy sees pictures drawn by {task.renderer}, these worlds are drawn by warp. Train "
                "it on pictures of warp (fibo demos convert FILE --renderer warp), or use --engine local."
            )
        if cameras:
            task.quality.check_shading()
        self._starts = StartStates(task)
        self._simulator = WarpTask(task, num_worlds, device, obs_keys=obs_keys, start_states=self._starts)
        self.num_worlds, self.device = num_worlds, self._simulator.device
        self._films: dict[tuple[str, int, int], WarpCameras] = {}
        self._cameras: WarpCameras | None = None
        if cameras:
            self._cameras = self._make_cameras(cameras, task.image_size, task.image_size, num_worlds)
            self._simulator.pictures = self._draw

    def prepare(self, seeds: Sequence[int]) -> None:
        """See :class:`fibo_robot.envs.rollouts.batched.worlds.BatchedEnv`, here and below."""
        self._starts.ensure(seeds)

    def begin(self, worlds: Sequence[int], seeds: Sequence[int]) -> list[Start]:
        self._simulator.start(seeds, worlds)
        starts = [self._simulator.starts[world] for world in worlds]
        return [Start(start.scene, start.object_positions) for start in starts if start is not None]

    def rest(self, worlds: Sequence[int]) -> None:
        self._simulator.rest(worlds)

    def advance(self, actions: Tensor) -> BatchedStep:
        info = self._simulator.advance(actions)
        success = info["success"]
        return BatchedStep(success.to(torch.float32), success, ~info["valid"])

    def fault(self, world: int) -> str:
        fault = self._simulator.faults[world]
        return fault.message if fault.dump is None else f"{fault.message} Its state is in {fault.dump}."

    def observe(self) -> dict[str, Tensor]:
        return self._simulator.observe()

    def render(self, camera: str, height: int, width: int, worlds: Sequence[int]) -> Tensor:
        key = (camera, height, width)
        if key not in self._films:
            self._films[key] = self._make_cameras([camera], height, width, 1)
        data, sizes = self._simulator.data, self._simulator.model.geom_size
        pictures = []
        for world in worlds:
            own = sizes[world : world + 1] if sizes.shape[0] > 1 else sizes
            pictures.append(self._films[key].draw(one_world(data, world), geom_size=own)[camera])
        return torch.cat(pictures).permute(0, 2, 3, 1)

    def describe_renderer(self) -> str | None:
        return None if self._cameras is None else describe(self._simulator.model.geom_type.device)

    def close(self) -> None:
        self._films.clear()
        self._cameras = None
        self._simulator.close()

    def _make_cameras(self, cameras: Sequence[str], height: int, width: int, num_worlds: int) -> WarpCameras:
        model = self._simulator.mujoco_model
        return WarpCameras(model, self._simulator.model, cameras, height, width, num_worlds)

    def _draw(self, obs_keys: Sequence[str]) -> Mapping[str, Tensor]:
        assert self._cameras is not None, "asked for pictures that were not announced"
        pictures = self._cameras.draw(self._simulator.data, [key.removesuffix("_image") for key in obs_keys])
        return {key: pictures[key.removesuffix("_image")] for key in obs_keys}
