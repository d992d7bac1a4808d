"""What is installed is complete, and lives beside a robot project's own `envs` and `policies` packages."""

import email
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
TASK_FOLDERS = ("video", "policies", "envs", "conf", "benchmarks")
TOOLS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
DATA_FILES = TOOLS["setuptools"]["package-data"]


def package_folders() -> set[Path]:
    """Folders of the package, links followed: `fibo_robot/video/reading`, not `video/reading`."""
    walked = os.walk(REPOSITORY / "fibo_robot", followlinks=True)
    return {Path(folder) for folder, _, files in walked if "__init__.py" in files}


def import_name(folder: Path) -> str:
    return folder.relative_to(REPOSITORY).as_posix().replace("/", ".")


@pytest.fixture
def robot_project(tmp_path: Path) -> Path:
    """A folder with `envs`, `policies`, `video` and `conf` packages of its own, to work in."""
    for name in ("envs", "policies", "video", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'robot project'\n")
    return tmp_path


LOCATE = """
import importlib, importlib.util, json
names = ["fibo_robot", "fibo_robot.video", "fibo_robot.policies", "fibo_robot.envs", "fibo_robot.conf"]
places = {name: importlib.util.find_spec(name).origin for name in names}
owners = [importlib.import_module(name).OWNER for name in ("envs", "policies", "video", "conf")]
print(json.dumps([places, owners]))
"""


def run_python(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_package_and_a_projects_own_folders_do_not_shadow_each_other(robot_project: Path) -> None:
    places, owners = json.loads(run_python("-c", LOCATE, cwd=robot_project))
    assert owners == ["robot project"] * 4
    assert not any(Path(place).is_relative_to(robot_project) for place in places.values())


def test_task_folders_are_linked_into_the_package() -> None:
    for name in TASK_FOLDERS:
        link = REPOSITORY / "fibo_robot" / name
        assert link.is_symlink() and os.readlink(link) == f"../{name}"


def test_types_are_checked_in_every_folder_with_code_once() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    folders = {file.split("/")[0] for file in listed.stdout.splitlines()}
    assert folders == set(TOOLS["pyright"]["include"])
    assert {f"fibo_robot/{name}" for name in TASK_FOLDERS} <= set(TOOLS["pyright"]["exclude"])


def test_checkout_without_links_says_so(tmp_path: Path) -> None:
    copy = tmp_path / "fibo_robot"
    copy.mkdir()
    shutil.copy(REPOSITORY / "fibo_robot" / "__init__.py", copy)
    (copy / "video").write_text("../video")  # what git leaves where links are off
    done = subprocess.run(
        [sys.executable, "-c", "import fibo_robot"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "core.symlinks" in done.stderr.splitlines()[-1]


def test_what_is_pinned_can_be_installed_by_debian_12s_python() -> None:
    """A pin that needs a later Python than 3.11.2 installs here and ends `make setup` there."""
    pins = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
    )
    refusing = {}
    for installed in distributions():
        name = canonicalize_name(installed.name)
        pythons = str(installed.metadata.json.get("requires_python", ""))
        if pins.get(name) == installed.version and "3.11.2" not in SpecifierSet(pythons):
            refusing[name] = pythons
    assert len(pins) > 100 and not refusing


def test_every_folder_with_modules_is_a_package() -> None:
    walked = os.walk(REPOSITORY / "fibo_robot", followlinks=True)
    with_modules = {Path(folder) for folder, _, files in walked if any(f.endswith(".py") for f in files)}
    assert with_modules == package_folders()


def test_every_data_file_is_declared() -> None:
    folders, undeclared = package_folders(), []
    for folder in folders:
        patterns = [p.replace("**/", "*") for p in DATA_FILES.get(import_name(folder), [])]
        for below, _, files in os.walk(folder, followlinks=True):
            # A folder without __init__.py (a config group) belongs to the package above it.
            owner = next(parent for parent in (Path(below), *Path(below).parents) if parent in folders)
            if owner != folder or "__pycache__" in below:
                continue
            for file in files:
                name = (Path(below) / file).relative_to(folder).as_posix()
                if not name.endswith(".py") and not any(fnmatch.fnmatch(name, p) for p in patterns):
                    undeclared.append(name)
    assert undeclared == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that no build leftovers of the checkout reach it."""
    sources = tmp_path_factory.mktemp("sources") / "fibo_robot"
    ignore = shutil.ignore_patterns(
        ".*", "*.egg-info", "build", "dist", "runs", "outputs", "__pycache__", "tests"
    )
    shutil.copytree(REPOSITORY, sources, ignore=ignore, symlinks=True)
    target = tmp_path_factory.mktemp("wheel")
    command = (
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(target),
    )
    run_python(*command, str(sources), cwd=target)
    (built,) = target.glob("fibo_robot-*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_every_source_and_data_file_and_nothing_beside(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in package_folders()
        for path in folder.glob("*.py")
    }
    expected |= {
        f"fibo_robot/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    expected |= {"fibo_robot/py.typed", "fibo_robot/video/datasets/catalogue.toml"}
    expected |= {"fibo_robot/envs/results/replay_gate.json"}
    expected |= {f"fibo_robot/reporting/{name}" for name in ("report.html.j2", "report.css")}
    assert packed == expected
    assert sum(name.endswith(".yaml") for name in packed) >= 10


@pytest.mark.slow
def test_wheel_names_its_licence_command_and_pythons(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.13,>=3.11"
    assert b"Apache License" in archive.read(f"{info}/licenses/LICENSE")
    assert b"fibo = fibo_robot.cli.main:main" in archive.read(f"{info}/entry_points.txt")


@pytest.mark.slow
def test_unpacked_wheel_works_in_a_robot_project(wheel: Path, robot_project: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    places, owners = json.loads(run_python("-c", LOCATE, cwd=robot_project, PYTHONPATH=str(site)))
    assert all(Path(place).is_relative_to(site) for place in places.values()), places
    assert owners == ["robot project"] * 4
    imports = "import fibo_robot.video, fibo_robot.policies, fibo_robot.envs, fibo_robot.reporting"
    run_python("-c", imports, cwd=robot_project, PYTHONPATH=str(site))
    compose = """
import hydra
with hydra.initialize_config_module("fibo_robot.conf", version_base=None):
    config = hydra.compose("train")
print(sorted(config))
"""
    assert "encoder" in run_python("-c", compose, cwd=robot_project, PYTHONPATH=str(site))
    answer = run_python("-m", "fibo_robot.cli", "--help", cwd=robot_project, PYTHONPATH=str(site))
    assert "train" in answer and "doctor" in answer


USE = """
from fibo_robot.envs import rollout
from fibo_robot.policies import load_policy
from fibo_robot.video import load_classifier

evaluation = rollout(load_policy("runs/lift"), seeds=range(1000, 1200), workers=4)
reveal_type(evaluation)
reveal_type(load_classifier("runs/skills"))
evaluation.sucess_rate
"""


@pytest.mark.slow
def test_a_type_checker_follows_an_installed_wheel_and_catches_a_misspelling(
    wheel: Path, tmp_path: Path
) -> None:
    site, project = tmp_path / "site", tmp_path / "project"
    zipfile.ZipFile(wheel).extractall(site)
    project.mkdir()
    (project / "use.py").write_text(USE)
    (project / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(site)]}))
    command = ("-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "use.py")
    done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert [row["message"] for row in found if row["severity"] == "information"] == [
        'Type of "evaluation" is "Evaluation"',
        'Type of "load_classifier("runs/skills")" is "ClipClassifier"',
    ]
    (error,) = [row for row in found if row["severity"] == "error"]
    assert "sucess_rate" in error["message"]
