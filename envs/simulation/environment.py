"""One robosuite task as a gymnasium environment whose episodes depend on their seed alone.

Physics and rendering are apart: :meth:`SimulationEnv.advance` moves the world, :meth:`SimulationEnv.observe`
looks at it. On a CPU a picture costs more than a control step, so a policy that executes chunks of actions
renders only where it looks.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.rendering.renderer import SceneRenderer, create_renderer
from fibo_robot.envs.simulation.actions import clipped_action
from fibo_robot.envs.simulation.geometry import BodyPoses, CubeGeometry, draw_cube_size, taken_cube_size
from fibo_robot.envs.simulation.object_state import object_positions, object_state, sensed_positions
from fibo_robot.envs.simulation.recorded_model import model_changes, with_changes
from fibo_robot.envs.simulation.robosuite_environment import import_robosuite, make_robosuite
from fibo_robot.envs.simulation.simulated_task import SimulatedTask
from fibo_robot.interfaces import StepResult

_REMEMBERING = frozenset({"Wipe"})


class SimulationEnv(gymnasium.Env):
    """A task in the simulator.

    Episodes never end by themselves: `terminated` stays False, and `truncated` becomes True at the task's
    horizon. Nothing resets on its own. Observations are float32 vectors and uint8 pictures `(3, H, W)`, right
    side up. The same seed gives the same episode in any process and after any earlier episodes.

    Attributes:
        task: the task with its renderer resolved.
        obs_keys: the observations that :meth:`observe` returns.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(
        self,
        task: SimulatedTask,
        obs_keys: Sequence[str] | None = None,
        render_mode: Literal["rgb_array"] | None = "rgb_array",
    ) -> None:
        """Start the simulator.

        Args:
            task: what to simulate.
            obs_keys: observations to return (default: all of the task's); other cameras are not rendered.
            render_mode: what :meth:`render` returns, in gymnasium's words; None: nothing.

        Raises:
            FiboError: for an unknown observation.
            RendererError: if the renderer's library is missing.
        """
        self.render_mode = render_mode
        self.obs_keys = task.check_keys(task.obs_keys if obs_keys is None else obs_keys)
        self.task = task.resolved()
        robosuite = import_robosuite(self.task.renderer)
        self._robosuite = make_robosuite(robosuite, task.env_name, self.task.robosuite_kwargs())
        self._renderer: SceneRenderer | None = None
        self._take_hold()
        self._built_xml, self._built_bodies = self._model_xml, self._bodies
        self._steps = 0
        low, high = (np.array(bound, np.float32) for bound in (task.action.low, task.action.high))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Dict({key: self._space(key) for key in self.obs_keys})

    def _take_hold(self) -> None:
        """Remember the model as it was compiled."""
        # MuJoCo can only save the model that it loaded last: save it before it loads another one.
        self._model_xml: str = self._robosuite.sim.model.get_xml()
        self._cube = CubeGeometry(self._model, self._model_xml) if self.task.env_name == "Lift" else None
        self._bodies = BodyPoses(self._model)

    def _rebuild(self, model_xml: str) -> None:
        """Make the model what this XML compiles to, and forget where everything was."""
        if model_xml == self._model_xml:
            self._bodies.put_back()
            return
        self.close_renderer()
        self._robosuite.hard_reset = True  # so that robosuite's sensors let go of the old model
        # As it was built, it is compiled from robosuite's own text: what MuJoCo saved is rounded.
        as_built = model_xml == self._built_xml
        try:
            self._robosuite.reset_from_xml_string(self._robosuite.model.get_xml() if as_built else model_xml)
        except ValueError as error:
            raise DatasetError(f"A demonstration's model_file cannot be compiled here: {error}") from error
        self._robosuite.hard_reset = False
        self._take_hold()
        self._model_xml = model_xml
        if as_built:  # where robosuite's first reset put bodies is not in its text
            self._bodies = self._built_bodies.in_another(self._model)

    def _space(self, key: str) -> gymnasium.spaces.Box:
        if key in self.task.low_dim:
            return gymnasium.spaces.Box(-np.inf, np.inf, (self.task.low_dim[key],), np.float32)
        return gymnasium.spaces.Box(0, 255, (3, self.task.image_size, self.task.image_size), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the episode that `seed` names; without one, the next of the environment's own generator."""
        self.start(seed)
        return self.observe(), {"success": self.success}

    def start(self, seed: int | None = None) -> None:
        """:meth:`reset` without looking: nothing is rendered."""
        super().reset(seed=seed)
        self._rebuild(self._built_xml)
        episode_seed = seed if seed is not None else int(self.np_random.integers(2**31))
        # robosuite's placement samplers hold on to this generator: give it a new state, not a new generator.
        self._robosuite.rng.bit_generator.state = np.random.default_rng(episode_seed).bit_generator.state
        if self._cube is not None:
            self._resize_cube(draw_cube_size(self._robosuite.rng))
        self._robosuite.reset()
        self._restore(self._robosuite.sim.get_state().flatten())

    def take_geometry(self, model_xml: str | None) -> None:
        """Make the scene a recorded one, for the states that are shown or gone on from next.

        Sizes, places, masses and what else differs is taken over, but for robots, which are robosuite's.

        Args:
            model_xml: the recorded model, a demonstration's `model_file`; None: nobody knows, so the model
                that was built at first.

        Raises:
            DatasetError: if `model_xml` is no model of this task.
        """
        changes = {} if model_xml is None else dict(model_changes(model_xml, self._built_xml))
        state = self.get_state()
        if self._cube is None:
            self._rebuild(with_changes(self._built_xml, changes))
        else:
            size = taken_cube_size(self._built_xml, changes)  # quicker than another model
            self._rebuild(with_changes(self._built_xml, changes))
            self._resize_cube(size)
        self.show_state(state)

    def _resize_cube(self, size: np.ndarray) -> None:
        assert self._cube is not None
        self._cube.resize(size, self._robosuite.sim.data._data)
        self._robosuite.cube.size = size  # robosuite places the cube by it

    def reset_to(self, state: np.ndarray) -> None:
        """Continue from a flat MuJoCo state (time, positions, velocities), as robomimic's files store it.

        The controller starts afresh there, as at the start of an episode. Replayed from an episode's first
        state, its actions lead through the same states bit for bit.

        Raises:
            ValueError: if the length of `state` is not that of this task's states.
        """
        expected = self._robosuite.sim.get_state().flatten().shape
        if state.shape != expected:
            raise ValueError(f"A state of the task {self.task.name} has shape {expected}, not {state.shape}.")
        self._robosuite.deterministic_reset = True
        self._robosuite.reset()
        self._robosuite.deterministic_reset = False
        self._restore(state)

    def show_state(self, state: np.ndarray) -> None:
        """Put the scene into a flat MuJoCo state to look at it; to go on from there, use :meth:`reset_to`."""
        sim = self._robosuite.sim
        sim.set_state_from_flattened(state)
        sim.forward()

    def _restore(self, state: np.ndarray) -> None:
        sim = self._robosuite.sim
        sim.set_state_from_flattened(state)
        # What robosuite's own reset left in the solver's warm start would depend on the way here.
        sim.data.qacc_warmstart[:] = 0.0
        sim.data.ctrl[:] = 0.0
        sim.forward()
        for robot in self._robosuite.robots:
            robot.composite_controller.update_state()
            for arm in robot.arms:
                controller = robot.composite_controller.get_controller(arm)
                controller.update_initial_joints(sim.data.qpos[controller.qpos_index])
        self._steps = 0

    def get_state(self) -> np.ndarray:
        """The flat MuJoCo state, float64 `(1 + nq + nv,)`: time, positions, velocities."""
        return self._robosuite.sim.get_state().flatten()

    def scene(self) -> dict[str, np.ndarray]:
        """Everything in which present scenes of this task can differ, float64: state, sizes, moved bodies."""
        sizes = {} if self._cube is None else {"cube_size": self._cube.size.copy()}
        moved = {f"pose of {name}": pose for name, pose in self._bodies.moved().items()}
        return {"state": self.get_state(), **sizes, **moved}

    def object_positions(self) -> dict[str, np.ndarray]:
        """Where the task's objects are: world positions `(3,)` in metres by name, the main one first."""
        if self.task.object_entries:
            return sensed_positions(self._sensed(), self.task.object_entries)
        return object_positions(self.task.env_name, self._robosuite.sim.data._data)

    @property
    def success(self) -> bool:
        """Whether the task is solved in the present state."""
        return bool(self._robosuite._check_success())

    @property
    def model_xml(self) -> str:
        """The scene as MuJoCo XML, with the present episode's sizes and bodies where they stand."""
        model_xml = with_changes(self._model_xml, self._bodies.changes())
        return model_xml if self._cube is None else self._cube.write(model_xml)

    @property
    def remembers(self) -> bool:
        """Whether robosuite keeps something of an episode outside of the states: in Wipe, what is wiped."""
        return self.task.env_name in _REMEMBERING

    @property
    def _model(self) -> Any:
        return self._robosuite.sim.model._model

    @property
    def steps(self) -> int:
        """Control steps since the episode began."""
        return self._steps

    def advance(self, action: np.ndarray) -> StepResult:
        """Apply `action` `(A,)`, clipped to the task's bounds, for one control step; nothing is rendered.

        Raises:
            ShapeError: it has another shape, or an entry that is NaN.
        """
        self._robosuite.step(clipped_action(action, self.task.action))
        # robosuite leaves positions one physics step behind velocities. Bring them up to date, so that what
        # is seen live equals what is seen when the recorded state is loaded.
        self._robosuite.sim.forward()
        self._steps += 1
        success = self.success
        return StepResult(float(success), success)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """:meth:`advance` and :meth:`observe`; `info["success"]` says whether the task is solved."""
        result = self.advance(action)
        truncated = self._steps >= self.task.horizon
        return self.observe(), result.reward, False, truncated, {"success": result.success}

    def observe(self, obs_keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The present observation: float32 `(D,)` vectors and uint8 `(3, H, W)` pictures.

        Args:
            obs_keys: what to look at (default: the environment's own); other cameras are not rendered.
        """
        vectors = self._sensed()
        observation = {}
        for key in self.obs_keys if obs_keys is None else obs_keys:
            if key == "object":
                observation[key] = self._object_state(vectors).astype(np.float32)
            elif key in self.task.low_dim:
                observation[key] = vectors[key].astype(np.float32)
            else:
                size = self.task.image_size
                image = self.render_image(key.removesuffix("_image"), size, size)
                observation[key] = np.ascontiguousarray(image.transpose(2, 0, 1))
        return observation

    def _object_state(self, sensed: Mapping[str, np.ndarray]) -> np.ndarray:
        if self.task.object_entries:
            return np.concatenate([np.ravel(sensed[name]) for name in self.task.object_entries])
        return object_state(self.task.env_name, self._robosuite.sim.data._data, sensed)

    def _sensed(self) -> dict[str, np.ndarray]:
        """robosuite's own observations of the present state."""
        look = partial(self._robosuite._get_observations, force_update=True)
        seen = look()
        if self.task.object_entries:
            # A sensor may read what another one, which comes later, saw at the look before; and that one too.
            for _ in self.task.object_entries:
                before, seen = seen, look()
                if all(np.array_equal(before[name], seen[name], equal_nan=True) for name in seen):
                    break
        return seen

    def body_pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position, metres `(3,)`, and quaternion, x, y, z, w `(4,)`, of a body of the scene, at present.

        Raises:
            ValueError: if the scene has no body of that name.
        """
        data = self._robosuite.sim.data
        return data.get_body_xpos(name).copy(), np.roll(data.get_body_xquat(name), -1)

    def render_image(self, camera: str, height: int, width: int) -> np.ndarray:
        """A picture by `camera`, uint8 `(height, width, 3)`, right side up; the first starts the renderer."""
        sim = self._robosuite.sim
        if self._renderer is None:
            self._renderer = create_renderer(self._model, self.task.renderer, self.task.quality)
        return self._renderer.render(sim.data._data, camera, height, width)

    def describe_renderer(self) -> str | None:
        """What draws the observed pictures, as it calls itself; starts it. None where none are observed."""
        if not any(key in self.task.image_keys for key in self.obs_keys):
            return None
        if self._renderer is None:
            self._renderer = create_renderer(self._model, self.task.renderer, self.task.quality)
        return self._renderer.description

    def render(self) -> np.ndarray | None:
        """A picture by the task's first camera at 256 x 256, as gymnasium's `rgb_array` mode."""
        if self.render_mode is None:
            return None
        return self.render_image(self.task.cameras[0], 256, 256)

    def close(self) -> None:
        """Release the renderer and the simulator."""
        self.close_renderer()
        self._robosuite.close()

    def close_renderer(self) -> None:
        """Release the renderer; the next picture starts another."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
