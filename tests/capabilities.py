"""What a test may need beyond the package: one mark each, so that what did not run can be counted.

`@pytest.mark.browser` on a test (or `pytestmark` in a module) lets it skip where there is no browser. A mark
named in the environment's FIBO_TEST_REQUIRE (separated by spaces) is demanded: its tests fail instead.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_DATA = Path(os.environ.get("FIBO_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Capability:
    """Something a machine may lack.

    Attributes:
        mark: the pytest mark of tests that need it.
        name: as people say it.
        is_here: whether this machine has it.
        how: how to get it, for the reason of a skip.
    """

    mark: str
    name: str
    is_here: Callable[[], bool]
    how: str


def _installed(module: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(module) is not None


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


CAPABILITIES = {
    capability.mark: capability
    for capability in (
        Capability("gpu", "GPU", _gpu, "run on a machine with CUDA"),
        Capability("browser", "Chromium", lambda: CHROMIUM is not None, "apt-get install chromium"),
        Capability("data", "sample data", SAMPLE_DATA.is_dir, "set FIBO_TEST_DATA to its folder"),
        Capability("sim", "simulator", _installed("robosuite"), "pip install 'fibo-robot[sim]'"),
        Capability("warp", "MuJoCo Warp", _installed("mujoco_warp"), "pip install 'fibo-robot[warp]'"),
        Capability("pusht", "PushT", _installed("gym_pusht"), "pip install 'fibo-robot[pusht]'"),
        Capability("ray", "Ray", _installed("ray"), "pip install 'fibo-robot[ray]'"),
        Capability(
            "transformers",
            "transformers",
            _installed("transformers"),
            "pip install 'fibo-robot[transformers]'",
        ),
        Capability(
            "torchcodec",
            "torchcodec",
            _installed("torchcodec"),
            "pip install 'fibo-robot[torchcodec]'; apt-get install ffmpeg",
        ),
        Capability("lerobot", "LeRobot", _installed("lerobot"), "an environment of its own: docs/lerobot.md"),
        Capability("parquet", "pyarrow", _installed("pyarrow"), "pip install 'fibo-robot[parquet]'"),
        Capability("slurm", "submitit", _installed("submitit"), "pip install 'fibo-robot[slurm]'"),
        Capability("docs", "MkDocs", _installed("mkdocstrings"), "pip install 'fibo-robot[docs]'"),
        Capability("triton", "Triton", _installed("triton"), "it comes with torch for Linux"),
        Capability("matplotlib", "matplotlib", _installed("matplotlib"), "pip install matplotlib"),
        Capability("hypothesis", "hypothesis", _installed("hypothesis"), "pip install hypothesis"),
    )
}


def required() -> set[str]:
    """The marks whose tests must not skip.

    Raises:
        ValueError: FIBO_TEST_REQUIRE names no capability.
    """
    marks = set(os.environ.get("FIBO_TEST_REQUIRE", "").split())
    if unknown := marks - CAPABILITIES.keys():
        raise ValueError(
            f"FIBO_TEST_REQUIRE names {', '.join(sorted(unknown))}; known: {', '.join(CAPABILITIES)}."
        )
    return marks
