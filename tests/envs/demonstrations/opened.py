"""An HDF5 file for tests to look into and to spoil; h5py's own types would ask what each name stands for."""

from pathlib import Path
from typing import Any

import h5py


def opened(path: Path, mode: str = "r") -> Any:
    """`h5py.File`, a context manager."""
    return h5py.File(path, mode)
