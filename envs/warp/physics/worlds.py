"""The worlds on the device: model, state, controllers and the physics step, captured in a CUDA graph.

A control step is, for every physics step, torques and then `step2; step1` of MuJoCo Warp: `step1` of the
reached state is what the next torques need, and leaves everything that observations are made of up to date.
So a control step costs no forward pass of its own, and robosuite's order (step1, torques, step2) is kept.

All launches go to torch's current stream, and buffers are shared with torch without copies. The first physics
step compiles what it needs and is recorded as a graph, which all later ones replay: whatever changes between
replays is changed in place. The graph holds one physics step, not a control step's 25, because on a CPU it
keeps all scratch memory that it holds: half a megabyte per world and physics step in Lift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from torch import Tensor

from fibo_robot.envs.rendering.warp.streams import in_torchs_order
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.physics import contact_kernels as kernels
from fibo_robot.envs.warp.physics.capacity import Capacity, few_worlds
from fibo_robot.envs.warp.physics.controller import ArmController
from fibo_robot.envs.warp.physics.recording import Recorded
from fibo_robot.envs.warp.physics.restarts import FewRestarts
from fibo_robot.envs.warp.physics.sizes import WorldSizes
from fibo_robot.envs.warp.rules.scene import Scene

ACTION_SIZE = 7  # entries of an action per arm


@dataclass(frozen=True)
class Peaks:
    """The most that a control step used; views, of the last step.

    Attributes:
        contacts: candidate or real contacts of all worlds together, `(1,)`.
        constraints: constraint rows `(W,)`.
        nonzeros: entries of the constraints' sparse Jacobian `(W,)`; 0 where it is dense.
    """

    contacts: Tensor
    constraints: Tensor
    nonzeros: Tensor


class Physics:
    """`num_worlds` worlds of an exported task.

    Attributes:
        model, data: MuJoCo Warp's, on the device.
        mujoco_model: the compiled model on the host.
        scene: poses and contacts of the present state.
        actions: buffer float64 `(W, A)` of the next control step's actions.
        resting: buffer bool `(W,)`: worlds that hold still whatever the action.
        peaks: what the last control step used.
        capacity: how much there is room for.
    """

    def __init__(self, export: TaskExport, num_worlds: int, device: torch.device, capacity: Capacity) -> None:
        """Allocate everything."""
        self.export, self.capacity, self._device = export, capacity, device
        self.mujoco_model = export.mujoco_model()
        self._recorded = Recorded()
        self._warp_device = wp.device_from_torch(device)
        with in_torchs_order(self._warp_device):
            self.model = mjw.put_model(self.mujoco_model)
            # Force sensors of robosuite's grippers, which no observation here reads.
            self.model.opt.disableflags |= int(mjw.DisableBit.SENSOR)
            if device.type == "cuda":
                self.model.opt.graph_conditional = wp.is_conditional_graph_supported()
            self.data = mjw.make_data(
                self.mujoco_model, num_worlds, nconmax=capacity.contacts, njmax=capacity.constraints
            )
            self._sizes = WorldSizes(export, self.model, num_worlds)
            self._arms = [
                ArmController(arm, ACTION_SIZE * index, self.model, self.data)
                for index, arm in enumerate(export.arms)
            ]
            self._allocate(num_worlds)
            few = few_worlds(num_worlds)
            self._few: FewRestarts | None = None
            if few:
                self._few = FewRestarts(few, self.mujoco_model, self.model, self.data, self._sizes, capacity)
            self.scene = Scene.of(self.mujoco_model, self.data, self._touching_by_name())

    def _allocate(self, num_worlds: int) -> None:
        def zeros(shape: Any, dtype: Any) -> tuple[Any, Tensor]:
            array = wp.zeros(shape, dtype=dtype)
            return array, wp.to_torch(array)

        self._actions, self.actions = zeros((num_worlds, ACTION_SIZE * len(self._arms)), wp.float64)
        self._resting, self.resting = zeros(num_worlds, wp.bool)
        self._peak_contacts, contacts = zeros(1, int)
        self._peak_constraints, constraints = zeros(num_worlds, int)
        self._peak_nonzeros, nonzeros = zeros(num_worlds, int)
        self.peaks = Peaks(contacts, constraints, nonzeros)
        pairs = list(self.export.success.touching.values())
        self._touching, self._touching_view = zeros((num_worlds, len(pairs)), wp.uint8)
        groups = np.zeros((2, len(pairs), self.mujoco_model.ngeom), np.uint8)
        for row, pair in enumerate(pairs):
            for side in range(2):
                groups[side, row, list(pair[side])] = 1
        self._groups = [wp.array(group, dtype=wp.uint8) for group in groups]
        fields = ("time", "qpos", "qvel", "ctrl", "qacc_warmstart")
        self._state = {name: wp.to_torch(getattr(self.data, name)) for name in fields}

    def _touching_by_name(self) -> dict[str, Tensor]:
        return {name: self._touching_view[:, row] for row, name in enumerate(self.export.success.touching)}

    def usage(self) -> Capacity:
        """What the last control step took at most: contacts per world, constraints of one world."""
        contacts = -(-int(self.peaks.contacts) // self.data.nworld)
        return Capacity(contacts, int(self.peaks.constraints.max()))

    def states(self) -> Tensor:
        """Flat states `(W, 1 + nq + nv)`, float32, in a tensor of their own."""
        return torch.cat([self._state["time"][:, None], self._state["qpos"], self._state["qvel"]], 1)

    def controls(self) -> Tensor:
        """What the actuators were last told, `(W, nu)`; a view."""
        return self._state["ctrl"]

    def begin(self, worlds: Sequence[int], scenes: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Put worlds into the scenes that their episodes begin with; the others go on untouched.

        Args:
            worlds: which.
            scenes: as `SimulationEnv.scene`, one for each.
        """
        index = torch.tensor(list(worlds), device=self._device)
        states = torch.from_numpy(np.stack([scene["state"] for scene in scenes])).to(self._device)
        nq = self.mujoco_model.nq
        values = {"time": states[:, 0], "qpos": states[:, 1 : 1 + nq], "qvel": states[:, 1 + nq :]}
        for name, view in self._state.items():
            view[index] = values[name].to(view.dtype) if name in values else 0.0
        for arm in self._arms:
            wp.to_torch(arm.initial)[index] = values["qpos"][:, arm.arm.qpos]
            wp.to_torch(arm.finger_commands)[index] = 0.0
        self._sizes.write(index, scenes)
        self.refresh(index)

    def refresh(self, worlds: Tensor | None = None) -> None:
        """Compute what follows from positions and velocities.

        Args:
            worlds: indices `(n,)`; where they are few, nothing is computed of others. None: all.
        """
        with in_torchs_order(self._warp_device):
            few = self._few
            apart = few is not None and worlds is not None and len(worlds) <= few.size and few.refresh(worlds)
            if not apart:
                mjw.step1(self.model, self.data)
            self._find_touching()

    def step(self) -> None:
        """One control step with :attr:`actions`."""
        with in_torchs_order(self._warp_device):
            for peak in (self._peak_contacts, self._peak_constraints, self._peak_nonzeros):
                peak.zero_()
            for arm in self._arms:
                arm.set_goals(self._actions, self._resting)
            self._watch()  # the state that it begins in counts, too
            for _ in range(self.export.substeps):
                self._recorded(self._physics_step)
            self._find_touching()

    def _physics_step(self) -> None:
        for arm in self._arms:
            arm.set_torques()
        mjw.step2(self.model, self.data)
        mjw.step1(self.model, self.data)
        self._watch()

    def _watch(self) -> None:
        data = self.data
        wp.launch(
            kernels.watch,
            dim=data.nworld,
            inputs=[
                data.nefc,
                data.nacon,
                data.ncollision,
                bool(self.model.is_sparse),
                data.njmax,
                data.efc.J_rownnz,
                data.efc.J_rowadr,
                self._peak_constraints,
                self._peak_nonzeros,
                self._peak_contacts,
            ],
        )

    def _find_touching(self) -> None:
        pairs = self._touching.shape[1]
        if not pairs:
            return
        self._touching.zero_()
        data = self.data
        wp.launch(
            kernels.find_touching,
            dim=(data.naconmax, pairs),
            inputs=[data.nacon, data.contact.worldid, data.contact.geom, *self._groups, self._touching],
        )
