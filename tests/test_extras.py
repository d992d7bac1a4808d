"""Optional packages are optional: what does without them works, and what needs one names its extra."""

import contextlib
import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fibo_robot.envs import get_task
from fibo_robot.errors import FiboError
from fibo_robot.extras import MissingExtraError, require
from tests.capabilities import REPOSITORY
from tests.missing import run_without

OPTIONAL = ("robosuite", "mujoco", "mujoco_warp", "warp", "ray", "transformers", "wandb")
# What a user of the attention alone has; timm brings huggingface_hub and safetensors.
LEAN = ("torch", "timm", "numba")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def needed_by(names: tuple[str, ...]) -> set[str]:
    """The installed distributions that these need, by canonical name, themselves included."""
    found: set[str] = set()
    waiting = [(name, "") for name in names]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform's, or of an extra that is not installed
        found.add(canonicalize_name(name))
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                new = {(requirement.name, ""), *((requirement.name, more) for more in requirement.extras)}
                waiting.extend(new - seen)
                seen |= new
    return found


def modules_beside(distributions: set[str]) -> set[str]:
    """Importable top-level names that belong to none of the distributions, and are not ours."""
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*distributions, "fibo-robot"}
    }


SWAP = """
import sys
import timm, torch
import fibo_robot.encoders
from fibo_robot.attention import swap_attention

for name in ("fibottention", "castling"):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=2)
    swap_attention(model, name)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
print("swapped")
"""


def test_attention_and_encoders_need_torch_timm_and_numba_alone(tmp_path: Path) -> None:
    others = modules_beside(needed_by(LEAN))
    assert {"lightning", "hydra", "av", "decord", "robomimic", "pytest"} <= others
    done = run_without(others, "-c", SWAP, folder=tmp_path)
    assert done.stdout.strip() == "swapped", done.stderr


def test_attention_is_measured_from_a_checkout_without_an_installation(tmp_path: Path) -> None:
    others = modules_beside(needed_by(LEAN))
    assert {"typer", "rich", "matplotlib", "pytest"} <= others
    measure = (
        "-m",
        "fibo_robot.benchmarks.attention",
        "--tokens",
        "17",
        "--forward-only",
        "--json",
        "rows.json",
    )
    done = run_without(others, *measure, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "17 tokens, forward, fibottention:" in done.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["op"] for row in rows] == ["sdpa", "fibottention", "castling"]


def test_library_and_command_are_imported_without_any_extra(tmp_path: Path) -> None:
    code = "import fibo_robot.cli.main, fibo_robot.envs, fibo_robot.policies, fibo_robot.video"
    done = run_without(OPTIONAL, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr


RECORD = ("demos", "record", "lift", "--episodes", "1", "--workers", "1", "--output", "out.hdf5")


@pytest.mark.parametrize("more", [(), ("--renderer", "warp")])
def test_recording_without_a_simulator_names_its_extra(more: tuple[str, ...], tmp_path: Path) -> None:
    done = run_without(OPTIONAL, "-m", "fibo_robot.cli", *RECORD, *more, folder=tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"needs \w+: pip install 'fibo-robot\[sim\]'\.$", last), done.stderr
    assert "Traceback" not in done.stderr


def take_away(packages: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they were not installed, in this process."""
    version, gone = metadata.version, set(packages)

    def of_what_is_there(name: str) -> str:
        if name.replace("-", "_") in gone:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", of_what_is_there)
    for name in gone:
        monkeypatch.setitem(sys.modules, name, None)


def names(extra: str) -> Any:
    """An error that says what to install."""
    return pytest.raises(MissingExtraError, match=rf"needs [\w-]+: pip install 'fibo-robot\[{extra}\]'\.$")


def test_what_needs_an_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from fibo_robot.training import config, run

    take_away(OPTIONAL, monkeypatch)
    with names("wandb"):
        run._logger(config.compose_config(["logger=wandb"]).logger)
    monkeypatch.delitem(sys.modules, "fibo_robot.envs.rollouts.workers.ray", raising=False)
    with names("ray"):
        importlib.import_module("fibo_robot.envs.rollouts.workers.ray")


@pytest.mark.sim
def test_renderer_of_a_missing_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(get_task("lift", renderer="warp").make_env()) as env:
        take_away(("mujoco_warp", "warp"), monkeypatch)
        with pytest.raises(FiboError, match=r"pip install 'fibo-robot\[warp\]'"):
            env.render_image("agentview", 8, 8)


def test_a_broken_package_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_needs"):
        require("half_installed", extra="sim", purpose="The simulator")
    with pytest.raises(
        MissingExtraError, match=r"^The simulator needs not_there: pip install 'fibo-robot\[sim\]'\.$"
    ):
        require("not_there", extra="sim", purpose="The simulator")


def pins(file: str) -> dict[str, Requirement]:
    lines = (REPOSITORY / file).read_text().splitlines()
    requirements = (Requirement(line) for line in lines if not line.startswith("#"))
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_every_installed_dependency_is_pinned_and_nothing_else() -> None:
    """torch brings its own packages, stand-ins are ours; `make setup` leaves out wandb and torchcodec."""
    extras = {name for name in PROJECT["optional-dependencies"] if name not in ("all", "wandb", "torchcodec")}
    wanted = [
        *PROJECT["dependencies"],
        *(r for name in extras for r in PROJECT["optional-dependencies"][name]),
    ]
    names = tuple(Requirement(text).name for text in wanted if not text.startswith("fibo-robot"))
    needed = needed_by(names)
    torchs = {"torchvision", "triton", "setuptools", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit"}
    expected = {
        name
        for name in needed
        if name not in torchs
        and not name.startswith("nvidia-")
        and not metadata.version(name).endswith("+standin")
    }
    assert expected - pins("constraints.txt").keys() == set()
    assert pins("constraints.txt").keys() - expected == set()


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_pins_satisfy_what_the_project_asks(file: str) -> None:
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        wanted = Requirement(text)
        pin = pins(file).get(canonicalize_name(wanted.name))
        if pin is not None:
            lowest = next(str(s.version) for s in pin.specifier if s.operator in ("==", ">="))
            assert wanted.specifier.contains(Version(lowest)), f"{pin} does not satisfy {wanted}"
