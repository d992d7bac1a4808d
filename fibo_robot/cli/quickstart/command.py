"""`fibo quickstart`: the main job, end to end, by the same commands that a user types.

Every stage is a `fibo` command in a process of its own, printed before it runs with what it is for and how
long it should take. A stage whose result is already there is skipped, so an interrupted quickstart continues
where it stopped.
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

from fibo_robot.durations import in_words
from fibo_robot.errors import FiboError
from fibo_robot.files import write_json

# Evaluation seeds start far from those of the demonstrations, which count from 0.
FIRST_EVALUATION_SEED = 100_000


# More noise than `fibo demos record` has by itself, and missed grasps: the policy then sees how the expert
# comes back from where the policy, left alone, would end.
DEMONSTRATIONS, NOISE, MISSED_GRASPS = 64, 0.2, 0.4


@dataclass(frozen=True)
class Stage:
    """One command of the quickstart.

    Attributes:
        title: what it does, in a few words.
        purpose: what for, in a sentence.
        arguments: the `fibo` command line.
        result: the file that its success leaves behind.
        expected: seconds that it took on two cores without a GPU.
    """

    title: str
    purpose: str
    arguments: tuple[str, ...]
    result: Path
    expected: float

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        return "fibo " + shlex.join(self.arguments)


def stages(output: Path, episodes: int, workers: int, seed: int) -> list[Stage]:
    """The stages in order; all results lie under `output`."""
    demos, policy, clips = output / "demos.hdf5", output / "policy", output / "skills"
    classifier, control = output / "classifier", output / "single_frame"
    rollouts, classified = output / "rollouts", output / "classified.jsonl"

    def train(experiment: str, data: str, run_dir: Path) -> tuple[str, ...]:
        return ("train", f"experiment={experiment}", data, f"run_dir={run_dir}", f"seed={seed}")

    def options(**values: object) -> tuple[str, ...]:
        return tuple(
            word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))
        )

    return [
        Stage(
            "Record scripted demonstrations of Lift",
            "What the policy will imitate: a script that knows where the cube is, filmed by two cameras.",
            (
                *("demos", "record", "lift"),
                *options(output=demos, episodes=DEMONSTRATIONS, noise=NOISE),
                *options(missed_grasps=MISSED_GRASPS, workers=workers),
            ),
            demos,
            110,
        ),
        Stage(
            "Train a policy with Fibottention on them",
            "It learns to do from pictures what the script did from the cube's position.",
            train("quickstart_lift", f"data.path={demos}", policy),
            policy / "model.safetensors",
            135,
        ),
        Stage(
            f"Roll it out on {episodes} fresh seeds",
            "How often does it succeed where no demonstration began? The first six episodes are filmed.",
            (
                *("rollout", str(policy)),
                *options(
                    episodes=episodes, workers=workers, seed=FIRST_EVALUATION_SEED, videos=6, output=rollouts
                ),
            ),
            rollouts / "eval.json",
            3 * episodes,
        ),
        Stage(
            "Record clips of robot skills",
            "Six skills in pairs, each the other played backwards: only the motion tells them apart.",
            ("demos", "skills", *options(output=clips, episodes_per_class=24, workers=workers)),
            clips / "clips.csv",
            70,
        ),
        Stage(
            "Train a video classifier with Fibottention on them",
            "It learns to name the skill from eight frames of a clip.",
            train("video_skills", f"data.root={clips}", classifier),
            classifier / "model.safetensors",
            90,
        ),
        Stage(
            "Train the same classifier on single frames, as a control",
            "It sees one frame of each clip, so what the other one knows beyond it comes from motion.",
            train("video_skills_single_frame", f"data.root={clips}", control),
            control / "model.safetensors",
            60,
        ),
        Stage(
            "Classify the held-out clips",
            "The classifier as it is used: files in, labels with probabilities out.",
            ("classify", str(classifier), str(clips / "test"), "--json", str(classified)),
            classified,
            10,
        ),
    ]


def run_stages(plan: list[Stage], output: Path) -> list[dict[str, object]]:
    """Run what is not done yet; returns title, command and seconds of every stage."""
    record = output / "stages.json"
    finished = {row["command"]: row for row in json.loads(record.read_text())} if record.exists() else {}
    todo = [stage for stage in plan if not (stage.command in finished and stage.result.exists())]
    if todo:
        total = in_words(sum(stage.expected for stage in todo))
        typer.echo(f"{len(todo)} of {len(plan)} stages to run, about {total} on two cores without a GPU.")
    for number, stage in enumerate(plan, start=1):
        typer.echo(f"\n[{number}/{len(plan)}] {stage.title} (about {in_words(stage.expected)})")
        typer.echo(f"{stage.purpose}\n$ {stage.command}")
        if stage not in todo:
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
        seconds = time.monotonic() - started
        typer.echo(f"took {in_words(seconds)}")
        finished[stage.command] = {"title": stage.title, "command": stage.command, "seconds": seconds}
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
