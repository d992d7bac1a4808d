"""`fibo doctor` finds what is wrong, says how to mend it, and its exit status tells whether all is well."""

import json
import signal
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fibo_robot import doctor
from fibo_robot.cli.main import app
from fibo_robot.doctor import (
    Check,
    check_decoders,
    check_devices,
    check_import,
    check_versions,
    check_warp_installed,
)
from fibo_robot.envs.rendering import probe as renderer_probe
from fibo_robot.envs.rendering.probe import RendererProbe


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def pretend_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name not in versions:
            return real(name)
        pretended = versions[name]
        if pretended is None:
            raise metadata.PackageNotFoundError(name)
        return pretended

    monkeypatch.setattr(metadata, "version", version)


def test_installed_versions_are_those_known_to_work() -> None:
    assert [check for check in check_versions() if not check.ok] == []


@pytest.mark.parametrize(
    ("name", "version", "ok"),
    [
        ("mujoco", "3.2.7", False),
        ("mujoco", "3.3.0", True),
        ("mujoco", "3.9.0", True),
        ("mujoco", "3.10.0", False),
        ("mujoco", "4.0.0", False),
        ("robosuite", "1.5.1", False),
        ("numpy", "1.25.0", False),
        ("numpy", "1.26.4", True),
        ("numpy", "2.4.6", True),
        ("numpy", "3.0.0", False),
        ("gymnasium", "1.5.0", False),
        ("torch", "2.10.0", False),
        ("torch", "2.14.0+cu130", True),
        ("robomimic", None, False),
    ],
)
def test_versions_outside_the_known_range_are_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str | None, ok: bool
) -> None:
    pretend_versions(monkeypatch, **{name: version})
    check = by_name(check_versions())[name]
    assert check.ok is ok
    assert check.detail == (version or "not installed")
    assert check.fix.startswith(f"pip install '{name}") is not ok


@pytest.mark.parametrize("name", ["robosuite", "mujoco"])
def test_missing_extra_is_named_but_not_needed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend_versions(monkeypatch, **{name: None})
    check = by_name(check_versions())[name]
    assert (check.ok, check.needed, check.fix) == (False, False, "pip install 'fibo-robot[sim]'")


def test_torchvision_built_for_another_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.12.0"])
    pretend_versions(monkeypatch, torch="2.14.1+cpu")
    check = by_name(check_versions())["torchvision"]
    assert not check.ok and "wants torch==2.12.0, found 2.14.1+cpu" in check.detail
    pretend_versions(monkeypatch, torch="2.12.0+cpu")
    assert by_name(check_versions())["torchvision"].ok


def test_real_decoders_and_devices_are_tried() -> None:
    video = by_name(check_decoders())
    assert video["decord"].ok and video["PyAV"].ok and video["PyAV codecs"].ok
    assert all(check.ok for check in check_devices())
    assert check_import("robomimic").ok


def test_decoder_that_returns_wrong_pictures_does_not_pass(tmp_path: Path) -> None:
    import numpy as np

    answer = doctor._answer("PyAV", lambda clip: [np.zeros((4, 4, 3))] * 3, tmp_path, [40, 120, 200])
    assert answer["ok"] is False and "decoded a clip of [40, 120, 200]" in answer["detail"]


def test_crashing_library_becomes_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "robosuite.py"
    package.write_text(f"import os; os.kill(os.getpid(), {signal.SIGSEGV})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_import("robosuite")
    assert not check.ok and check.detail == f"crashed (signal {signal.SIGSEGV})" and check.fix


def test_slow_answer_is_not_taken_for_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", never)
    for check in (check_import("robosuite"), *check_decoders(), check_devices()[-1]):
        assert not check.ok and "no answer within" in check.detail and "less busy" in check.fix


def test_missing_system_library_names_the_debian_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    complaint = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "robosuite.py").write_text(f"raise ImportError({complaint!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = check_import("robosuite")
    assert not check.ok and check.fix == "apt-get install libgl1"


def run_command(
    monkeypatch: pytest.MonkeyPatch, checks: list[Check], probes: list[RendererProbe], *options: str
) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "run_checks", lambda: checks)
    monkeypatch.setattr(
        renderer_probe, "probe_renderers", lambda names: [probe for probe in probes if probe.name in names]
    )
    result = CliRunner().invoke(app, ["doctor", *options], env={"COLUMNS": "120"})
    return result.exit_code, result.output


WORKS = Check("versions", "mujoco", True, "3.9.0")
BROKEN = Check("versions", "mujoco", False, "4.0.0", "pip install 'mujoco==3.9.0'")
OPTIONAL = Check("devices", "triton", False, "not installed", "pip install triton", needed=False)
EGL = RendererProbe("egl", True, "", "")
NO_EGL = RendererProbe("egl", False, "no display", "apt-get install libegl1 libgl1-mesa-dri")
OSMESA = RendererProbe("osmesa", True, "", "")
NO_OSMESA = RendererProbe("osmesa", False, "not found", "apt-get install libosmesa6")
WARP = RendererProbe("warp", True, "", "")


@pytest.mark.parametrize(
    ("checks", "probes", "status"),
    [
        ([WORKS], [EGL, OSMESA], 0),
        ([WORKS, OPTIONAL], [EGL, NO_OSMESA], 0),
        ([WORKS], [NO_EGL, OSMESA], 0),
        ([WORKS], [NO_EGL, NO_OSMESA, WARP], 1),
        ([BROKEN], [EGL, OSMESA], 1),
    ],
)
def test_exit_status_tells_whether_everything_needed_works(
    monkeypatch: pytest.MonkeyPatch, checks: list[Check], probes: list[RendererProbe], status: int
) -> None:
    assert run_command(monkeypatch, checks, probes)[0] == status


def test_table_shows_each_fix_and_json_holds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, shown = run_command(monkeypatch, [BROKEN, OPTIONAL], [EGL, NO_OSMESA])
    for fix in (BROKEN.fix, OPTIONAL.fix, NO_OSMESA.fix):
        assert fix in shown
    pretend_versions(monkeypatch, **{"mujoco-warp": "3.9.0.1", "warp-lang": "1.15.0"})
    status, text = run_command(monkeypatch, [BROKEN, OPTIONAL], [EGL, NO_OSMESA], "--json", "-")
    answer = json.loads(text)
    assert status == 1 and answer["ok"] is False
    assert [(check["name"], check["ok"], check["needed"]) for check in answer["checks"]] == [
        ("mujoco", False, True),
        ("triton", False, False),
        ("egl", True, False),
        ("osmesa", False, False),
        ("warp", True, False),
    ]


def test_warp_is_drawn_with_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first picture compiles for over a minute, so by default its version has to do."""
    broken = RendererProbe("warp", False, "kernels do not compile", "another warp-lang")
    pretend_versions(monkeypatch, **{"mujoco-warp": "3.9.0.1", "warp-lang": "1.15.0"})
    _, quick = run_command(monkeypatch, [WORKS], [EGL, OSMESA, broken], "--json", "-")
    _, full = run_command(monkeypatch, [WORKS], [EGL, OSMESA, broken], "--json", "-", "--full")
    (looked_at,) = (check for check in json.loads(quick)["checks"] if check["name"] == "warp")
    (tried,) = (check for check in json.loads(full)["checks"] if check["name"] == "warp")
    assert looked_at["ok"] and "3.9.0.1" in looked_at["detail"] and "--full" in looked_at["detail"]
    assert not tried["ok"] and tried["detail"] == "kernels do not compile"


def test_missing_warp_is_optional_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, **{"mujoco-warp": "3.9.0.1", "warp-lang": None})
    check = check_warp_installed("install it")
    assert (check.ok, check.needed, check.fix) == (False, False, "install it")
    assert check.detail == "warp-lang not installed"


@pytest.mark.sim
def test_rendering_is_tried_for_real_and_a_missing_library_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a machine that renders, at least one OpenGL back end draws; without its library it does not."""
    opengl = ("egl", "osmesa")
    here = {probe.name: probe.ok for probe in renderer_probe.probe_renderers(opengl, timeout=60)}
    assert any(here.values())
    # An unusable library first on the loader's path is as good as none.
    for name in ("libEGL.so.1", "libOSMesa.so.8"):
        (tmp_path / name).touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    without = renderer_probe.probe_renderers(opengl, timeout=60)
    assert [probe.ok for probe in without] == [False, False]
    assert "libegl1" in without[0].fix and "libosmesa6" in without[1].fix
    assert all(probe.detail for probe in without)
