"""`fibo classify` and `fibo video-test`: a trained classifier, applied to videos or tested on them."""

import typer

from fibo_robot.cli.classify import command, video_test


def register(app: typer.Typer) -> None:
    """Add `classify` and `video-test` to the command."""
    command.register(app)
    video_test.register(app)
