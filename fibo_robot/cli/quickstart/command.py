"""`fibo quickstart`: the main job, end to end, by the same commands that a user types.

Every stage is printed before it runs, with what it is for and how long it should take. A stage whose result
is already there is skipped, so an interrupted quickstart continues where it stopped.
"""

from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.quickstart.lanes import Stage, run_stages

# Evaluation seeds start far from those of the demonstrations, which count from 0.
FIRST_EVALUATION_SEED = 100_000


# More noise than `fibo demos record` has by itself, and missed grasps: the policy then sees how the expert
# comes back from where the policy, left alone, would end. Edges are not smoothed: that takes half of a
# picture's time on a CPU.
DEMONSTRATIONS, NOISE, MISSED_GRASPS = 100, 0.2, 0.4


def stages(output: Path, episodes: int, workers: int, seed: int) -> list[Stage]:
    """The stages in order, each lane with its share of the workers; all results lie under `output`."""
    share = max(1, workers // 2)
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
            "policy",
            "Record scripted demonstrations of Lift",
            "What the policy will imitate: a script that knows where the cube is, filmed by two cameras.",
            (
                *("demos", "record", "lift"),
                *options(output=demos, episodes=DEMONSTRATIONS, noise=NOISE),
                *options(missed_grasps=MISSED_GRASPS, multisamples=0, workers=share),
            ),
            demos,
            155,
        ),
        Stage(
            "policy",
            "Train a policy with Fibottention on them",
            "It learns to do from pictures what the script did from the cube's position.",
            train("quickstart_lift", f"data.path={demos}", policy),
            policy / "model.safetensors",
            145,
        ),
        Stage(
            "policy",
            f"Roll it out on {episodes} fresh seeds",
            "How often does it succeed where no demonstration began? The first six episodes are filmed.",
            (
                *("rollout", str(policy)),
                *options(
                    episodes=episodes, workers=share, seed=FIRST_EVALUATION_SEED, videos=6, output=rollouts
                ),
            ),
            rollouts / "eval.json",
            2.5 * episodes,
        ),
        Stage(
            "clips",
            "Record clips of robot skills",
            "Six skills in pairs, each the other played backwards: only the motion tells them apart.",
            ("demos", "skills", *options(output=clips, episodes_per_class=24, workers=share)),
            clips / "clips.csv",
            120,
        ),
        Stage(
            "clips",
            "Train a video classifier with Fibottention on them",
            "It learns to name the skill from eight frames of a clip.",
            train("video_skills", f"data.root={clips}", classifier),
            classifier / "model.safetensors",
            80,
        ),
        Stage(
            "clips",
            "Train the same classifier on single frames, as a control",
            "It sees one frame of each clip, so what the other one knows beyond it comes from motion.",
            train("video_skills_single_frame", f"data.root={clips}", control),
            control / "model.safetensors",
            45,
        ),
        Stage(
            "clips",
            "Classify the held-out clips",
            "The classifier as it is used: files in, labels with probabilities out.",
            ("classify", str(classifier), str(clips / "test"), "--json", str(classified)),
            classified,
            5,
        ),
    ]


def register(app: typer.Typer) -> None:
    """Add `quickstart` to the command."""

    @app.command()
    def quickstart(
        output: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path(
            "runs/quickstart"
        ),
        episodes: Annotated[int, typer.Option(min=1, help="Evaluation episodes.")] = 20,
        workers: Annotated[
            int, typer.Option(min=1, help="Simulator processes, half of them for the clips.")
        ] = 2,
        seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    ) -> None:
        """Demonstrate, train, roll out, classify and report: the whole package in one run."""
        from fibo_robot.cli.quickstart.report import write_report

        output.mkdir(parents=True, exist_ok=True)
        timings = run_stages(stages(output, episodes, workers, seed), output)
        report = write_report(output, timings)
        typer.echo(f"\nreport: {report}")
