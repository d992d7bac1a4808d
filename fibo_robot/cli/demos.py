"""`fibo demos`: record, convert, replay and look at demonstrations, and record clips of robot skills."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fibo_robot.cli.json_result import JsonFile, write_result
from fibo_robot.errors import FiboError
from fibo_robot.progress import progress_bar

Output = Annotated[Path, typer.Option("--output", help="HDF5 file to make.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes, one simulator in each.")]
Renderer = Annotated[
    Literal["auto", "egl", "osmesa", "warp"], typer.Option("--renderer", help="What draws the pictures.")
]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", min=1, help="Pixels of a picture's side [the task's].")
]


def register(app: typer.Typer) -> None:
    """Add `demos` to the command."""
    demos = typer.Typer(help="Record, convert and replay demonstrations.", no_args_is_help=True)
    for command in (record, convert, replay, skills, info):
        demos.command()(command)
    app.add_typer(demos, name="demos")


def record(
    task: Annotated[str, typer.Argument(help="A task with a scripted expert: lift, can, square or stack.")],
    output: Output,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Successful demonstrations.")] = 100,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first episode.")] = 0,
    noise: Annotated[float, typer.Option("--noise", min=0.0, help="Noise on the motion, of range 1.")] = 0.1,
    missed_grasps: Annotated[
        float, typer.Option("--missed-grasps", help="Share of episodes that once grasp nothing and go on.")
    ] = 0.0,
    renderer: Renderer = "auto",
    image_size: ImageSize = None,
    multisamples: Annotated[
        int | None,
        typer.Option("--multisamples", min=0, help="Samples of a pixel; 0 halves its time on a CPU."),
    ] = None,
) -> None:
    """Record a scripted expert's demonstrations with pictures; an interrupted recording continues."""
    from fibo_robot.envs.demonstrations.record import Recording, record_demonstrations
    from fibo_robot.envs.rendering.settings import RenderQuality
    from fibo_robot.envs.tasks import get_task

    overrides: dict[str, Any] = {"renderer": renderer} | ({"image_size": image_size} if image_size else {})
    if multisamples is not None:
        overrides["quality"] = RenderQuality(multisamples=multisamples)
    with progress_bar(f"Recording {task}") as progress:
        done = record_demonstrations(
            get_task(task, **overrides),
            output,
            Recording(episodes, seed, noise, missed_grasps),
            workers,
            progress,
        )
    typer.echo(f"{done.path}: {done.episodes} demonstrations of {done.tries} tries, {done.steps} steps.")


def convert(
    raw: Annotated[Path, typer.Argument(help="File of robomimic or robosuite, or LeRobot's v3 dataset.")],
    output: Annotated[Path, typer.Option("--output", help="HDF5 file, or folder of LeRobot's v3, to make.")],
    codec: Annotated[Literal["av1", "h264"], typer.Option("--codec", help="Of LeRobot's videos.")] = "av1",
    workers: Workers = 2,
    renderer: Renderer = "auto",
    image_size: ImageSize = None,
) -> None:
    """Draw the pictures of a raw robomimic or robosuite file; or go to LeRobot's format v3, or back.

    An output named .hdf5 is a robomimic file, any other a folder. Only conversions to HDF5 can be resumed.
    """
    from fibo_robot.envs.demonstrations.convert import convert_demonstrations

    if raw.is_dir() or output.suffix not in (".hdf5", ".h5"):
        from fibo_robot.extras import require

        require("pyarrow", extra="parquet", purpose="LeRobot's data set format")
        from fibo_robot.envs.demonstrations.lerobot.to_hdf5 import lerobot_to_hdf5
        from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot

        with progress_bar(f"Converting {raw.name}") as progress:
            if raw.is_dir():
                episodes = lerobot_to_hdf5(raw, output, progress)
            else:
                episodes = write_lerobot(raw, output, codec, progress)
        typer.echo(f"{output}: {episodes} demonstrations.")
        return
    with progress_bar(f"Converting {raw.name}") as progress:
        done = convert_demonstrations(raw, output, image_size, renderer, workers, progress)
    typer.echo(
        f"{done.path}: {done.episodes} demonstrations, {done.successes} successful, {done.steps} steps."
    )


def replay(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="robomimic file.")],
    by: Annotated[
        Literal["states", "actions"], typer.Option("--by", help="Show states, or play actions.")
    ] = "states",
    workers: Workers = 2,
    engine: Annotated[
        Literal["local", "warp"],
        typer.Option("--engine", help="robosuite, or its actions in batched worlds beside robosuite."),
    ] = "local",
    device: Annotated[str, typer.Option("--device", help="Of the batched worlds: cpu or cuda.")] = "cpu",
    json_file: JsonFile = None,
) -> None:
    """Say how many demonstrations still end in success when they are played again.

    By actions, the result is also kept beside the file, as NAME.replay.json, unless --json says where.
    """
    if engine == "warp":
        _compare_engines(path, device, json_file)
        return
    from fibo_robot.envs.demonstrations.replay import replay_demonstrations

    with progress_bar(f"Replaying {path.name}") as progress:
        done = replay_demonstrations(path, by, workers, progress)
    result = done.to_dict()
    if json_file == "-":
        write_result(json_file, result)
        return
    note = f" Failed: {', '.join(result['failed'])}." if result["failed"] else ""
    drift = result["max_object_drift"]
    off = "" if drift is None else f" The object was off by at most {100 * drift:.2f} cm."
    typer.echo(f"{path}: {done.successes} of {len(done.demos)} replays by {by} end in success.{note}{off}")
    if by == "actions" and json_file is None:
        json_file = str(path.with_suffix(".replay.json"))
    if json_file is not None:
        try:
            write_result(json_file, result)
        except OSError as error:
            raise FiboError(
                f"The result cannot be kept at {json_file} ({error.strerror or error}); give another --json."
            ) from error


def _compare_engines(path: Path, device: str, json_file: str | None) -> None:
    from fibo_robot.envs.warp.replay import compare_replays

    with progress_bar(f"Replaying {path.name} twice") as progress:
        done = compare_replays(path, device, progress)
    if json_file is not None:
        write_result(json_file, done.to_dict())
    if json_file != "-":
        typer.echo(done.to_text())


def skills(
    output: Annotated[Path, typer.Option("--output", help="Folder for the clips and clips.csv.")],
    episodes_per_class: Annotated[
        int, typer.Option("--episodes-per-class", min=4, help="Motions of each; every fourth is for testing.")
    ] = 24,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first episode.")] = 0,
    image_size: Annotated[
        int, typer.Option("--image-size", min=2, help="Pixels of a frame's side, even.")
    ] = 96,
    renderer: Renderer = "auto",
) -> None:
    """Record short clips of robot skills, each the reverse of another.

    An episode for training gives a clip forwards and one backwards, for the opposite skill; one for testing
    gives one clip.
    """
    from fibo_robot.envs.demonstrations.skills import SKILLS, record_skills

    with progress_bar("Recording skills") as progress:
        table = record_skills(output, episodes_per_class, seed, image_size, renderer, workers, progress)
    labels = ", ".join(skill.label for skill in SKILLS)
    typer.echo(f"{table}: clips of {labels} from {episodes_per_class * len(SKILLS)} episodes.")


def info(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="robomimic file.")],
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Also draw frames into this PNG.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Say what a file of demonstrations holds; nothing is simulated."""
    from fibo_robot.envs.demonstrations.info import describe_demonstrations, draw_contact_sheet

    described = describe_demonstrations(path)
    if json_file is not None:
        write_result(json_file, described.to_dict())
    if json_file != "-":
        typer.echo(described.to_text())
    if sheet is not None:
        draw_contact_sheet(path, sheet)
