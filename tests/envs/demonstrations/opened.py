"""An HDF5 file for tests to look into and to spoil; h5py's own types would ask what each name stands for."""

from pathlib import Path
from typing import Any

import h5py


def opened(path: Path, mode: str = "r") -> Any:
    """`h5py.File`, a context manager."""
    return h5py.File(path, mode)


def keep_last(path: Path, steps: int) -> None:
    """Leave only the last steps of every demonstration, in which it succeeds: drawing it all takes long."""
    with opened(path, "r+") as file:
        for demo in file["data"].values():
            names: list[str] = []
            demo.visit(names.append)
            for name in [name for name in names if isinstance(demo[name], h5py.Dataset)]:
                rows = demo[name][-steps:]
                del demo[name]
                demo[name] = rows
            demo.attrs["num_samples"] = steps
        file["data"].attrs["total"] = steps * len(file["data"])
