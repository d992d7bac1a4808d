"""Temporal ensembling: every step's action is a mean over all chunks that predicted it.

Zhao et al., "Learning fine-grained bimanual manipulation with low-cost hardware" (RSS 2023), section IV-B:
the predictions of one step, counted from the oldest, weigh `exp(-m i)`, i = 0, 1, ...
"""

import torch
from torch import Tensor


class TemporalEnsemble:
    """A running mean over the chunks of an episode that decides at every step.

    What an episode holds is the mean so far of each step that its chunks reach beyond the present one,
    `(H - 1, A)`; how many chunks make it up follows from how many decisions there were.

    Args:
        horizon: H, steps of a chunk.
        decay: m; the larger, the less a newer prediction counts. 0 is the plain mean.
    """

    def __init__(self, horizon: int, decay: float) -> None:
        weights = torch.exp(-decay * torch.arange(horizon, dtype=torch.float64))
        self.horizon = horizon
        # Share of the newest prediction in the mean of n + 1, for n = 0 ... H-1.
        self._newest_share = (weights / weights.cumsum(0)).float()

    def update(self, chunks: Tensor, held: list[Tensor | None], decisions: tuple[int, ...]) -> Tensor:
        """Means `(B, H, A)` of the present and future steps, with the new chunks `(B, H, A)` taken in.

        Args:
            chunks: predictions made now.
            held: for each row `means[1:]` of its episode's last decision; None before its first.
            decisions: how many decisions each episode has made before.
        """
        steps = torch.arange(self.horizon)
        # Step j was predicted by the last H-1-j chunks at most, and by no more than there were.
        counts = torch.minimum(torch.tensor(decisions)[:, None], self.horizon - 1 - steps)
        share = self._newest_share[counts].to(chunks)[..., None]
        nothing = chunks.new_zeros(self.horizon - 1, chunks.shape[2])
        before = torch.stack([nothing if means is None else means for means in held])
        before = torch.cat([before, torch.zeros_like(chunks[:, :1])], dim=1)
        return before + share * (chunks - before)
