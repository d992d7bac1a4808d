"""`fibo bench`: measurements, of speed but for `study`. Each subcommand prints a table and can write JSON."""

import typer

from fibo_robot.cli.bench.attention import attention
from fibo_robot.cli.bench.castling import castling
from fibo_robot.cli.bench.data import data
from fibo_robot.cli.bench.decoding import decoding
from fibo_robot.cli.bench.gpu import gpu
from fibo_robot.cli.bench.pictures import pictures
from fibo_robot.cli.bench.policy import policy
from fibo_robot.cli.bench.rollout import rollout
from fibo_robot.cli.bench.startup import startup
from fibo_robot.cli.bench.study import study
from fibo_robot.cli.bench.video import video

bench = typer.Typer(help="Measure speed: ratios within one process, with their spread.", no_args_is_help=True)
for _command in (attention, castling, data, decoding, gpu, pictures, policy, rollout, startup, study, video):
    bench.command()(_command)


def register(app: typer.Typer) -> None:
    """Add `bench` to the command."""
    app.add_typer(bench, name="bench")
