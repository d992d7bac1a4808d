"""What the machine lacks is said in one sentence, before anything is allocated."""

import importlib
import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import torch

from fibo_robot.envs.warp import runtime
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.physics.capacity import CAPACITIES, Memory, memory_needed
from fibo_robot.envs.warp.task import WarpTask
from fibo_robot.extras import MissingExtraError
from tests.capabilities import REPOSITORY
from tests.envs.warp.conftest import LIFT


def test_supported_versions_are_those_of_the_extras() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {f"{name}{versions}" for name, versions in runtime.SUPPORTED.items()}
    assert wanted <= {*extras["sim"], *extras["warp"]}


@pytest.mark.parametrize("package", ["mujoco", "mujoco-warp", "warp-lang"])
def test_a_version_that_does_not_fit_is_named_with_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = {"mujoco": "3.9.0", "mujoco-warp": "3.9.0.1", "warp-lang": "1.15.0"}
    monkeypatch.setattr(importlib.metadata, "version", {**fitting, package: "4.0.0"}.__getitem__)
    with pytest.raises(
        WarpError, match=rf"not work with {package} 4\.0\.0, .* pip install 'mujoco==3\.9\.0'"
    ):
        runtime.import_warp()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingExtraError, match=r"fibo-robot\[warp\]"):
        runtime.check_versions()


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpu", "meta", "cuda:x"):
        with pytest.raises(WarpError, match="Worlds run on cpu, cuda"):
            runtime.resolve_device(name)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(WarpError, match="is built without CUDA"):
        WarpTask(LIFT, 2, "cuda")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WarpError, match="finds no GPU here"):
        runtime.resolve_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(WarpError, match="no device cuda:3: this machine has 1"):
        runtime.resolve_device("cuda:3")


@pytest.mark.sim
@pytest.mark.warp
def test_more_worlds_than_fit_are_refused_with_how_many_would(
    lift_export: TaskExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_needed(lift_export.mujoco_model(), CAPACITIES["Lift"])
    monkeypatch.setattr(runtime, "_free_memory", lambda device: memory.of(1000) + 5)
    with pytest.raises(WarpError, match=r"100000 worlds need about .* GiB free: take at most 1000 worlds"):
        WarpTask(LIFT, 100_000, "cpu", export=lift_export)
    # Ten thousand worlds of Lift must be possible on a GPU of 80 GB, and their arrays are not nothing.
    assert 20_000 < memory.per_world < 2_000_000


def test_memory_that_torch_keeps_in_reserve_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = 3 * 2**30
    free = 2**30

    def empty_cache() -> None:
        nonlocal free, reserved
        free, reserved = free + reserved, 0

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    runtime.check_memory(Memory(2**30, 2**20), 2000, torch.device("cuda", 0))
    with pytest.raises(WarpError, match=r"4000 worlds need about 5.2 GiB, and cuda:0 has 4.0 GiB free"):
        runtime.check_memory(Memory(2**30, 2**20), 4000, torch.device("cuda", 0))


@pytest.mark.warp
@pytest.mark.slow  # a kernel is compiled
def test_modules_are_reported_when_they_are_compiled_and_not_when_they_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warp, _ = runtime.import_warp()
    monkeypatch.setattr(warp.config, "kernel_cache_dir", str(tmp_path))
    level, logger = warp.config.log_level, warp.get_logger()
    # A module of its own: the cache of the machine knows it not, and this process neither.
    module = tmp_path / "some_kernels.py"
    module.write_text(
        "import warp as wp\n\n@wp.kernel\ndef double(a: wp.array[float]):\n"
        "    a[wp.tid()] = 2.0 * a[wp.tid()]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kernels = importlib.import_module("some_kernels")
    array = warp.ones(3, dtype=float, device="cpu")
    named: list[str] = []
    with runtime.compiled_modules(named.append):
        warp.launch(kernels.double, dim=3, inputs=[array], device="cpu")
    assert named == ["some_kernels"] and array.numpy().tolist() == [2.0, 2.0, 2.0]
    warp.get_module("some_kernels").unload()
    with runtime.compiled_modules(named.append):
        warp.launch(kernels.double, dim=3, inputs=[array], device="cpu")
    assert named == ["some_kernels"] and array.numpy().tolist() == [4.0, 4.0, 4.0]
    assert (warp.config.log_level, warp.get_logger()) == (level, logger)
