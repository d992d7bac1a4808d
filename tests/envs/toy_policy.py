"""A policy for the toy task, with a real network in it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fibo_robot.interfaces import ShapeMeta
from tests.envs.toy_task import SIZE


class ToyPolicy(nn.Module):
    """Finds both dots in the picture and steers one to the other, with an episode's own noise.

    A small transformer takes part in every action, so that batching shows in its last bits if anywhere.
    """

    def __init__(self, shape_meta: ShapeMeta, noise: float = 0.3, nan_seed: int | None = None) -> None:
        super().__init__()
        self.shape_meta, self.noise, self.nan_seed = shape_meta, noise, nan_seed
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 48, 4, stride=4)
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True)
        self.trunk = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 2)
        self.generators: dict[int, torch.Generator] = {}
        self.calls: list[tuple[int, ...]] = []
        self.eval()

    def reset(self, episodes: Sequence[int]) -> None:
        for episode in episodes:
            self.generators[episode] = torch.Generator().manual_seed(episode)

    def forget(self, episodes: Sequence[int]) -> None:
        for episode in episodes:
            del self.generators[episode]

    @torch.inference_mode()
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        self.calls.append(tuple(episodes))
        image = obs["top_image"][:, -1].float() / 255
        ticks = torch.linspace(-1, 1, SIZE)
        weight = image.sum((-2, -1)).clamp(min=1)
        x = (image.sum(-2) * ticks).sum(-1) / weight
        y = (image.sum(-1) * ticks).sum(-1) / weight
        toward = torch.stack([x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]], -1) * 2
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        steps = self.shape_meta.n_action_steps
        noise = torch.stack([torch.randn(steps, 2, generator=self.generators[e]) for e in episodes])
        offset = 0.1 * self.head(self.trunk(tokens).mean(1))
        actions = (toward + offset)[:, None] + self.noise * noise
        for row, episode in enumerate(episodes):
            if episode == self.nan_seed:
                actions[row, -1, 0] = torch.nan
        return actions
