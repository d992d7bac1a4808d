"""Pictures of many demonstrations as one array over all steps, in memory or read when they are asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fibo_robot.policies.data.source import DemonstrationSource


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]` for rows of any shape; several times as fast where a row is long."""
    return values.index_select(0, rows.flatten()).unflatten(0, rows.shape)


class Pictures:
    """The pictures of one camera; they stay where they are stored until :meth:`load`.

    Args:
        source: holds them.
        key: the observation.
        demos: which demonstrations, one after the other.
        lengths: steps of each, `(demos,)`.
        shape: `(3, H, W)` of a picture.
    """

    def __init__(
        self,
        source: DemonstrationSource,
        key: str,
        demos: Sequence[str],
        lengths: np.ndarray,
        shape: tuple[int, ...],
    ) -> None:
        self.source, self.key, self.demos, self.lengths, self.shape = source, key, demos, lengths, shape
        self._starts = np.cumsum(lengths) - lengths
        self._loaded: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """What they all take in memory."""
        return int(self.lengths.sum()) * int(np.prod(self.shape))

    def load(self) -> None:
        """Keep all of them in memory from now on; a DataLoader's processes share it."""
        pictures = torch.empty((int(self.lengths.sum()), *self.shape), dtype=torch.uint8)
        for start, length in zip(self._starts, self.lengths):
            pictures[start : start + length] = self._read(np.arange(start, start + length))
        self._loaded = pictures

    def rows(self, rows: Tensor) -> Tensor:
        """Pictures `(..., 3, H, W)`, uint8, of rows of any shape.

        From where they are stored each is read once, in the order in which they lie, neighbours together.

        Raises:
            DatasetError: they can no longer be read.
        """
        if self._loaded is not None:
            return rows_of(self._loaded, rows)
        distinct, place = torch.unique(rows, return_inverse=True)  # sorted
        return rows_of(self._read(distinct.numpy()), place)

    def _read(self, rows: np.ndarray) -> Tensor:
        """Pictures `(N, 3, H, W)` of ascending rows."""
        channels, height, width = self.shape
        pictures = np.empty((len(rows), height, width, channels), np.uint8)
        demos = np.searchsorted(self._starts, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(demos) != 0)) + 1
        for begin, end in zip([0, *breaks], [*breaks, len(rows)]):
            demo = int(demos[begin])
            first = int(rows[begin] - self._starts[demo])
            self.source.read_pictures(self.demos[demo], self.key, first, pictures[begin:end])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
