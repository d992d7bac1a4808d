"""The registered environments have gymnasium's habits: keywords, vector environments, its checker."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import fibo_robot.envs  # noqa: F401  (registers them)

pytestmark = pytest.mark.sim
LIFT = "fibo_robot/Lift-v0"
STILL = np.zeros(7, np.float32)


def test_every_keyword_of_make_is_taken() -> None:
    env = gymnasium.make(
        LIFT,
        max_episode_steps=2,
        disable_env_checker=False,
        render_mode="rgb_array",
        obs_keys=["object"],
    )
    env.reset(seed=0)
    assert [env.step(STILL)[1:4] for _ in range(2)] == [(0.0, False, False), (0.0, False, True)]
    picture = env.render()
    assert isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape == (256, 256, 3)
    env.close()


def test_the_checker_has_nothing_against_it() -> None:
    env = gymnasium.make(LIFT, obs_keys=["object", "robot0_eye_in_hand_image"]).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=False)
    complaints = [str(warning.message) for warning in caught if "gymnasium" in warning.filename]
    # What robosuite senses has no bounds that could be stated.
    assert all("infinity" in complaint for complaint in complaints), complaints
    env.close()


@pytest.mark.parametrize(
    ("mode", "options"), [("sync", {}), pytest.param("async", {"context": "spawn"}, marks=pytest.mark.slow)]
)
def test_vector_environments_play_the_episodes_of_single_ones(mode: str, options: dict[str, str]) -> None:
    keys = ["robot0_eef_pos", "object"]
    worlds = gymnasium.make_vec(
        LIFT, num_envs=2, vectorization_mode=mode, vector_kwargs=options, obs_keys=keys
    )
    assert isinstance(worlds, SyncVectorEnv | AsyncVectorEnv)
    observations, _ = worlds.reset(seed=[3, 4])
    moved = worlds.step(np.ones((2, 7), np.float32))[0]
    worlds.close()
    env = gymnasium.make(LIFT, obs_keys=keys)
    for row, seed in enumerate((3, 4)):
        alone, _ = env.reset(seed=seed)
        stepped = env.step(np.ones(7, np.float32))[0]
        for key in keys:
            np.testing.assert_array_equal(observations[key][row], alone[key])
            np.testing.assert_array_equal(moved[key][row], stepped[key])
    env.close()


def test_workers_that_would_wait_for_a_forked_renderer_say_so() -> None:
    script = f"""
import multiprocessing
import gymnasium, fibo_robot.envs
from fibo_robot.envs.rendering.settings import RendererError

def draw():
    env = gymnasium.make("{LIFT}", render_mode="rgb_array", obs_keys=["object"])
    env.reset(seed=0)
    return env.render().shape

def forked(sender):
    try:
        draw()
    except RendererError as error:
        sender.send(str(error))

if __name__ == "__main__":
    assert draw() == (256, 256, 3)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    worker = context.Process(target=forked, args=(sender,))
    worker.start()
    print(receiver.recv() if receiver.poll(30) else "no answer")
    worker.kill()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "forked from one that has drawn" in done.stdout and "spawn" in done.stdout
