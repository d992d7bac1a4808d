"""The tutorials do what they say: every page is run as it stands, in an empty folder."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.capabilities import REPOSITORY
from tests.docs.tutorials import blocks, shell_script

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def follow(page: str, tmp_path: Path, warm: list[str]) -> Path:
    """Do what the page says; returns the folder in which it was done."""
    folder, scripts = tmp_path / "work", tmp_path / "scripts"
    folder.mkdir()
    scripts.mkdir()
    # `fibo` and `python` are this environment's, and the package is this checkout's. What a script imports
    # beside it comes from the folder that it is run in.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    begin = "".join(f'{name}() {{ {shlex.join([*warm, name])} "$@"; }}\n' for name in ("fibo", "python"))
    script = begin + shell_script((TUTORIALS / page).read_text(encoding="utf-8"), scripts)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return folder


def test_blocks_become_files_commands_and_scripts(tmp_path: Path) -> None:
    page = (
        'Write\n```python title="parts/word.py"\nWORD = "it\'s"\n```\nthen\n'
        "```sh\nexport GIVEN=kept\n```\n```text\nfalse\n```\n"
        "```python\nimport os\nfrom parts.word import WORD\nprint(WORD, os.environ['GIVEN'])\n```\n"
    )
    assert [block.language for block in blocks(page)] == ["python", "sh", "text", "python"]
    environment = {"PATH": f"{Path(sys.executable).parent}:/bin:/usr/bin", "PYTHONPATH": "."}
    script = shell_script(page, tmp_path)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "it's kept\n", done.stderr
    failing = shell_script("```sh\nfalse\n```\n```sh\necho reached\n```\n", tmp_path)
    done = subprocess.run(["bash", "-c", failing], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""


def test_every_tutorial_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    pages = sorted(page.name for page in TUTORIALS.glob("*.md"))
    assert len(pages) == 4 and all(f'follow("{page}"' in here for page in pages)


@pytest.mark.slow
@pytest.mark.matplotlib
def test_attention_in_your_own_vit(tmp_path: Path, warm: list[str]) -> None:
    folder = follow("attention-in-your-vit.md", tmp_path, warm)
    assert (folder / "pictures" / "masks.png").exists()


@pytest.mark.slow
@pytest.mark.sim
def test_your_own_task_from_demonstrations_to_a_report(tmp_path: Path, warm: list[str]) -> None:
    folder = follow("your-own-task.md", tmp_path, warm)
    result = json.loads((folder / "runs" / "frontview" / "rollouts" / "eval.json").read_text())
    assert result["task"]["name"] == "lift_from_the_front" and result["aggregated"]["n_counted"] == 2
    assert (folder / "runs" / "frontview" / "rollouts" / "report.html").stat().st_size > 20_000


@pytest.mark.slow
def test_your_own_clips_from_a_folder_to_a_label(tmp_path: Path, warm: list[str]) -> None:
    folder = follow("your-own-clips.md", tmp_path, warm)
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert len(labels) == 2


@pytest.mark.slow
@pytest.mark.sim
def test_a_plugin_is_trained_without_editing_the_package(tmp_path: Path, warm: list[str]) -> None:
    folder = follow("your-own-plugin.md", tmp_path, warm)
    (epoch,) = json.loads((folder / "runs" / "mine" / "history.json").read_text())
    assert epoch["epoch"] == 1 and epoch["train/loss"] > 0
