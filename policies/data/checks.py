"""What is wrong with demonstrations as samples to learn from, said before training begins."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.policies.data.source import DemonstrationSource


def check_finite(values: np.ndarray, key: str, demo: str, name: str) -> None:
    """Refuse an observation `(T, D)` with NaN or infinity: the normaliser's statistics would be NaN.

    Raises:
        DatasetError: naming the demonstration and the first step.
    """
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DatasetError(
            f"{demo} of {name} has values of {key} that are not finite, first at step {step}; remove it from "
            "the file or its mask."
        )


def check_distinct(
    source: DemonstrationSource,
    demos: Sequence[str],
    vectors: Mapping[str, Sequence[np.ndarray]],
    cameras: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse a demonstration that is there twice under two names: it would count twice, unnoticed.

    Two are the same if their actions and vectors are, and the first picture of each camera.

    Args:
        source: holds them.
        demos: their names.
        vectors: by key, of each demonstration the actions or an observation.
        cameras: shape `(H, W, 3)` of a picture by its key.

    Raises:
        DatasetError: naming both.
    """
    seen: dict[bytes, list[int]] = {}
    for index, demo in enumerate(demos):
        digest = hashlib.sha256()
        for parts in vectors.values():
            digest.update(np.ascontiguousarray(parts[index]).tobytes())
        others = seen.setdefault(digest.digest(), [])
        for other in others:
            if all(_look_alike(source, (demos[other], demo), key, shape) for key, shape in cameras.items()):
                raise DatasetError(
                    f"{demo} of {source.name} repeats {demos[other]}, step by step; remove one of them from "
                    "the file or its mask."
                )
        others.append(index)


def _look_alike(
    source: DemonstrationSource, demos: tuple[str, str], key: str, shape: tuple[int, ...]
) -> bool:
    first, second = (np.empty((1, *shape), np.uint8) for _ in demos)
    for demo, picture in zip(demos, (first, second)):
        source.read_pictures(demo, key, 0, picture)
    return np.array_equal(first, second)
