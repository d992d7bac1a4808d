"""Rollouts of the real simulator: the same episodes, bit by bit, with one worker and with two."""

import pytest
import torch

from fibo_robot.envs import get_task, rollout

pytestmark = [pytest.mark.sim, pytest.mark.slow]


class SeeingPolicy:
    """Random motion whose size depends on the picture, so that a pixel's difference would show."""

    def __init__(self, shape_meta):
        self.shape_meta = shape_meta
        self.generators = {}

    def reset(self, episodes):
        for episode in episodes:
            self.generators[episode] = torch.Generator().manual_seed(episode)

    def forget(self, episodes):
        for episode in episodes:
            del self.generators[episode]

    def act(self, obs, episodes):
        size = (self.shape_meta.n_action_steps, self.shape_meta.action.dim)
        noise = torch.stack([torch.randn(size, generator=self.generators[e]) for e in episodes])
        brightness = obs["agentview_image"].double().mean((1, 2, 3, 4)).float() / 255
        return (noise * brightness[:, None, None]).clamp(-1, 1)


def test_lift_episodes_do_not_depend_on_the_number_of_workers(tmp_path):
    task = get_task("lift", horizon=16)
    keys = ["agentview_image", "robot0_eef_pos"]
    policy = SeeingPolicy(task.shape_meta(keys, n_obs_steps=2, action_horizon=8, n_action_steps=8))
    one = rollout(policy, task, range(4), workers=1)
    two = rollout(policy, task, range(4), workers=2, output=tmp_path, videos=1)
    assert [(e.scene, e.trace) for e in one.episodes] == [(e.scene, e.trace) for e in two.episodes]
    assert len({episode.scene for episode in one.episodes}) == 4
    assert (tmp_path / "videos" / "seed_000000_failure.mp4").stat().st_size > 1000
    x, y, z = one.episodes[0].object_positions["cube"]
    assert abs(x) < 0.1 and abs(y) < 0.1 and 0.8 < z < 0.9  # the cube lies on the table
