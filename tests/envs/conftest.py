"""The toy task must be importable by worker processes, which inherit this process's import path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
