"""The `fibo` command called within a test, and what the tests' small classifier is made of."""

from typer.testing import CliRunner

from fibo_robot.cli.main import app

LABELS = ["left", "right", "up"]
ENCODER = {
    "name": "vit_micro",
    "mode": "joint",
    "frames": 4,
    "tubelet": 2,
    "image_size": 32,
    "patch_size": 16,
}


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
