"""Record random motion of a task without an expert, for `fibo demos replay FILE --engine warp` to compare.

python scripts/random_motion.py transport random.hdf5 --episodes 5 --steps 40

Every action is drawn once per arm and entry and held for five control steps, so that arms go somewhere.
"""

import argparse
from pathlib import Path

import numpy as np

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.record import stack_observations
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, split_masks, write_part

HELD = 5


def random_actions(generator: np.random.Generator, steps: int, *shape: int) -> np.ndarray:
    """Actions `(steps, *shape)` in [-1, 1], each held for :data:`HELD` steps."""
    return generator.uniform(-1, 1, (-(-steps // HELD), *shape)).repeat(HELD, axis=0)[:steps]


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("output", type=Path)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    task = get_task(arguments.task, cameras=()).resolved()
    writer = DemonstrationWriter(arguments.output, {"task": task.to_dict(), "steps": arguments.steps})
    env = task.make_env()
    for seed in range(arguments.episodes):
        actions = random_actions(np.random.default_rng(seed), arguments.steps, task.action.dim)
        observation, _ = env.reset(seed=seed)
        seen, states, rewards = [], [], []
        for action in actions:
            seen.append(observation)
            states.append(env.get_state())
            rewards.append(env.advance(action).reward)
            observation = env.observe()
        dones = np.array(rewards, np.int64)
        dones[-1] = 1
        obs, states, rewards = stack_observations(seen), np.array(states), np.array(rewards)
        demonstration = Demonstration(obs, actions, states, rewards, dones, env.model_xml, {"seed": seed})
        write_part(writer.part(seed), demonstration)
    env.close()
    names = {f"demo_{seed}": seed for seed in range(arguments.episodes)}
    writer.finish(names, task.env_args(), split_masks(list(names)))


if __name__ == "__main__":
    main()
