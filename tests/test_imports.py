"""Imports point one way: the command -> video, policies, envs -> the library; and never in a circle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TASK_FOLDERS = ("video", "policies", "envs", "benchmarks")

# What each part may import of the others, besides itself. Everything may import the library.
MAY_IMPORT = {
    "library": set(),
    "video": set(),
    "envs": set(),
    "policies": {"envs"},  # demonstrations, and the tasks they name
    "benchmarks": {"video", "envs", "policies"},
    "cli": {"video", "envs", "policies", "benchmarks"},
    "lerobot": {"envs", "policies"},  # LeRobot's plug-in: another door from outside
}


def module_files() -> dict[str, Path]:
    """Every module of the package by its import name."""
    files = {}
    for folder in ("fibo_robot", *TASK_FOLDERS):
        for path in (REPOSITORY / folder).rglob("*.py"):  # does not follow the links in fibo_robot/
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            files[name if folder == "fibo_robot" else f"fibo_robot.{name}"] = path
    return files


MODULES = module_files()


def part(module: str) -> str:
    second = module.split(".")[1] if "." in module else ""
    return second if second in MAY_IMPORT else "library"


def imported(node: ast.AST) -> Iterator[str]:
    """The modules of ours that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name in MODULES else node.module for name in names]
    else:
        return
    yield from (name for name in names if name in MODULES)


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported_when_loaded(body: list[ast.stmt]) -> Iterator[str]:
    """What importing a module imports at once: not what functions import, nor what only types need."""
    for statement in body:
        if is_for_types_only(statement) or isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield from imported(statement)
        for field in ("body", "orelse", "handlers", "finalbody"):
            yield from imported_when_loaded(getattr(statement, field, []))


def wrong_direction(module: str, tree: ast.Module) -> list[str]:
    allowed = {part(module), "library", *MAY_IMPORT[part(module)]}
    return [
        f"{module} imports {name}"
        for node in ast.walk(tree)
        for name in imported(node)
        if part(name) not in allowed
    ]


def circle(sources: dict[str, str]) -> list[str]:
    """A circle of modules that import each other when loaded; empty where there is none.

    A package's `__init__` is left out as a source of edges to its own modules: it is a door, not a floor.
    """
    graph = {}
    for module, source in sources.items():
        names = set(imported_when_loaded(ast.parse(source).body)) - {module}
        graph[module] = {name for name in names if not name.startswith(f"{module}.")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_imports_point_from_the_command_to_the_library() -> None:
    wrong = {module: wrong_direction(module, ast.parse(path.read_text())) for module, path in MODULES.items()}
    assert {module: imports for module, imports in wrong.items() if imports} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle({module: path.read_text() for module, path in MODULES.items()}) == []


def test_a_wrong_direction_and_a_circle_would_be_noticed() -> None:
    source = "def f():\n    from fibo_robot.video.classifier import VideoClassifier\n"
    assert wrong_direction("fibo_robot.policies.load", ast.parse(source)) == [
        "fibo_robot.policies.load imports fibo_robot.video.classifier"
    ]
    first, second = "fibo_robot.errors", "fibo_robot.files"
    there = {first: f"import {second}", second: "import fibo_robot.errors"}
    assert set(circle(there)) == {first, second}
    assert circle({first: f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {second}"}) == []
