"""Whether `fibo rollout MODEL.pth` gives the successes of robomimic's own loop from the same start states.

    python -m fibo_robot.benchmarks.robomimic_loop MODEL.pth --episodes 20 --seed 100000

Each seed is played three times: by `fibo rollout`; by `robomimic.utils.train_utils.run_rollout` in our
environment, where everything but the loop is the same; and by it in robomimic's own environment, which
robosuite resets from a generator in the seed's state. That all begin in one state is checked, not assumed.

A policy that draws (a mixture) draws from torch's global generator in robomimic, and from the episode's seed
here: its episodes differ by luck. Regression does not draw.
"""

import contextlib
import io
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from robomimic.algo import RolloutPolicy
from robomimic.utils import env_utils, file_utils
from robomimic.utils.train_utils import run_rollout

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.simulation.rollout import SerialEnv
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.tasks import Task
from fibo_robot.policies.adapters.robomimic_checkpoint import load_robomimic_policy
from fibo_robot.progress import track

# robosuite's text of a model is rounded, its positions are not: far below what moves an outcome.
_SAME_START = 1e-9


@dataclass(frozen=True)
class LoopRow:
    """One start state.

    Attributes:
        seed: names it.
        fibo: success in `fibo rollout`.
        loop: in robomimic's loop over our environment.
        robomimic: in robomimic's loop over robomimic's environment.
    """

    seed: int
    fibo: bool
    loop: bool
    robomimic: bool


def measure(path: Path, seeds: Sequence[int]) -> list[LoopRow]:
    """Play every seed in the three ways.

    Raises:
        BenchmarkError: a seed begins in another state in robomimic's environment.
        CheckpointError: the file is no checkpoint that is rolled out here.
    """
    policy = load_robomimic_policy(path)
    task = Task.from_dict(policy.meta["task"])
    # Full horizons: robomimic's loop counts a success at any step.
    evaluation = rollout(policy, seeds=seeds, workers=1, success_hold=None)
    ours = SerialEnv(task, policy)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs, stored = file_utils.policy_from_checkpoint(ckpt_path=str(path), device=torch.device("cpu"))
        own = _robomimic_environment(stored["env_metadata"])
    found: list[LoopRow] = []
    try:
        for episode in track(evaluation.episodes, "robomimic's loop"):
            seed = ours.seed = episode.seed
            loop = _succeeds(theirs, ours, task.horizon)
            own.reset = _seeded_reset(own, seed, ours)
            robomimic = _succeeds(theirs, own, task.horizon)
            found.append(LoopRow(seed, episode.success_once, loop, robomimic))
    finally:
        ours.close()
        own.env.close()
    return found


def _succeeds(policy: RolloutPolicy, env: Any, horizon: int) -> bool:
    return bool(run_rollout(policy, env, horizon, terminate_on_success=True)["Success_Rate"])


def _robomimic_environment(metadata: dict[str, Any]) -> Any:
    """robomimic's own environment of a checkpoint, which builds a new model at each reset."""
    kwargs = {**metadata["env_kwargs"], "hard_reset": True}
    with _mujoco_py():
        return env_utils.create_env(metadata["type"], metadata["env_name"], **kwargs)


@contextlib.contextmanager
def _mujoco_py() -> Iterator[None]:
    """robomimic 0.3 imports mujoco_py for the name of one exception; robosuite has long left it."""
    stand_in: Any = types.ModuleType("mujoco_py")
    stand_in.builder = types.SimpleNamespace(MujocoException=RuntimeError)
    missing = "mujoco_py" not in sys.modules
    sys.modules.setdefault("mujoco_py", stand_in)
    try:
        yield
    finally:
        if missing:
            del sys.modules["mujoco_py"]


def _seeded_reset(env: Any, seed: int, ours: SerialEnv) -> Callable[[], dict[str, np.ndarray]]:
    """robomimic's reset from a generator in the seed's state, checked against our start state."""

    def reset() -> dict[str, np.ndarray]:
        env.env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        observation = type(env).reset(env)
        ours.reset()
        difference = np.abs(env.get_state()["states"] - ours.state()).max()
        if difference > _SAME_START:
            raise BenchmarkError(
                f"Seed {seed} begins elsewhere in robomimic's environment: {difference:.2g} off."
            )
        return observation

    return reset


def main(
    checkpoint: Annotated[Path, typer.Argument(help="robomimic's .pth, of its bc on vectors.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many start states.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first.")] = 100_000,
) -> None:
    """Successes of one checkpoint in `fibo rollout` and in robomimic's own loop, by start state."""
    rows = measure(checkpoint, range(seed, seed + episodes))
    for row in rows:
        typer.echo(f"seed {row.seed}  fibo {row.fibo:d}  loop {row.loop:d}  robomimic {row.robomimic:d}")
    for name in ("loop", "robomimic"):
        agree = sum(row.fibo == getattr(row, name) for row in rows)
        total = sum(getattr(row, name) for row in rows)
        typer.echo(f"{name}: {total} successes, the same as fibo in {agree} of {len(rows)} start states")
    typer.echo(f"fibo: {sum(row.fibo for row in rows)} successes")


if __name__ == "__main__":
    typer.run(main)
