"""Tables as LeRobot reads them: columns of arrays, and the one of tasks, which pandas must recognise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def to_arrow(values: np.ndarray) -> pa.Array:
    """A column: numbers, or lists of one length where a step has several."""
    flat = pa.array(values.reshape(-1))
    if values.ndim == 1 or values.shape[1:] == (1,):
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.size // len(values))


def tasks_table(tasks: list[str]) -> pa.Table:
    """tasks.parquet: the words are the index of the table that pandas, by which LeRobot reads it, makes."""
    column = "__index_level_0__"
    described = {
        "index_columns": [column],
        "column_indexes": [],
        "columns": [
            _pandas_column("task_index", "task_index", "int64", "int64"),
            _pandas_column(None, column, "unicode", "object"),
        ],
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), column: pa.array(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def _pandas_column(name: str | None, field_name: str, kind: str, numpy_type: str) -> dict[str, Any]:
    named = {"name": name, "field_name": field_name, "metadata": None}
    return {**named, "pandas_type": kind, "numpy_type": numpy_type}


def plain(value: Any) -> Any:
    """An HDF5 attribute as JSON knows it."""
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON indented as LeRobot does."""
    path.write_text(json.dumps(value, indent=4) + "\n", encoding="utf-8")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
