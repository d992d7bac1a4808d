"""`fibo quickstart`: the main job, end to end, by the same commands that a user types.

Every stage is a `fibo` command in a process of its own, printed before it runs. A stage whose result is
already there is skipped, so an interrupted quickstart continues where it stopped.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.errors import FiboError
from fibo_robot.files import write_json

# Evaluation seeds start far from those of the demonstrations, which count from 0.
FIRST_EVALUATION_SEED = 100_000


@dataclass(frozen=True)
class Stage:
    """One command of the quickstart.

    Attributes:
        title: what it does, in a few words.
        arguments: the `fibo` command line.
        result: the file that its success leaves behind.
    """

    title: str
    arguments: tuple[str, ...]
    result: Path

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        return "fibo " + shlex.join(self.arguments)


def stages(output: Path, episodes: int, workers: int, seed: int) -> list[Stage]:
    """The stages in order; all results lie under `output`."""
    demos, policy, clips = output / "demos.hdf5", output / "policy", output / "skills"
    classifier, control = output / "classifier", output / "single_frame"

    def train(experiment: str, data: str, run_dir: Path) -> tuple[str, ...]:
        return ("train", f"experiment={experiment}", data, f"run_dir={run_dir}", f"seed={seed}")

    return [
        Stage(
            "Record scripted demonstrations of Lift",
            (
                "demos",
                "record",
                "lift",
                "--output",
                str(demos),
                "--episodes",
                "100",
                "--workers",
                str(workers),
            ),
            demos,
        ),
        Stage(
            "Train a policy with Fibottention on them",
            train("quickstart_lift", f"data.path={demos}", policy),
            policy / "model.safetensors",
        ),
        Stage(
            f"Roll it out on {episodes} fresh seeds",
            (
                *("rollout", str(policy), "--episodes", str(episodes), "--workers", str(workers)),
                *(
                    "--seed",
                    str(FIRST_EVALUATION_SEED),
                    "--videos",
                    "6",
                    "--output",
                    str(output / "rollouts"),
                ),
            ),
            output / "rollouts" / "eval.json",
        ),
        Stage(
            "Record clips of robot skills",
            ("demos", "skills", "--output", str(clips), "--clips-per-class", "24", "--workers", str(workers)),
            clips / "clips.csv",
        ),
        Stage(
            "Train a video classifier with Fibottention on them",
            train("video_skills", f"data.root={clips}", classifier),
            classifier / "model.safetensors",
        ),
        Stage(
            "Train the same classifier on single frames, as a control",
            train("video_skills_single_frame", f"data.root={clips}", control),
            control / "model.safetensors",
        ),
        Stage(
            "Classify the held-out clips",
            ("classify", str(classifier), str(clips / "test"), "--json", str(output / "classified.jsonl")),
            output / "classified.jsonl",
        ),
    ]


def run_stages(plan: list[Stage], output: Path) -> list[dict[str, object]]:
    """Run what is not done yet; returns title, command and seconds of every stage."""
    record = output / "stages.json"
    finished = {row["command"]: row for row in json.loads(record.read_text())} if record.exists() else {}
    for number, stage in enumerate(plan, start=1):
        typer.echo(f"\n[{number}/{len(plan)}] {stage.title}\n$ {stage.command}")
        if stage.command in finished and stage.result.exists():
            typer.echo("already done")
            continue
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "fibo_robot.cli", *stage.arguments], check=False)
        if done.returncode == 130:
            raise KeyboardInterrupt
        if done.returncode or not stage.result.exists():
            raise FiboError(
                f"The quickstart stopped at stage {number} ({stage.title.lower()}): its message is above. "
                "Mend that and run the same command again; finished stages are kept."
            )
        row = {"title": stage.title, "command": stage.command, "seconds": time.monotonic() - started}
        finished[stage.command] = row
        write_json(record, list(finished.values()))
    return [finished[stage.command] for stage in plan]


def register(app: typer.Typer) -> None:
    """Add `quickstart` to the command."""

    @app.command()
    def quickstart(
        output: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path(
            "runs/quickstart"
        ),
        episodes: Annotated[int, typer.Option(min=1, help="Evaluation episodes.")] = 20,
        workers: Annotated[int, typer.Option(min=1, help="Simulator processes.")] = 2,
        seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    ) -> None:
        """Demonstrate, train, roll out, classify and report: the whole package in one run."""
        from fibo_robot.cli.quickstart.report import write_report

        output.mkdir(parents=True, exist_ok=True)
        timings = run_stages(stages(output, episodes, workers, seed), output)
        report = write_report(output, timings)
        typer.echo(f"\nreport: {report}")
