"""`fibo classify`, `video-test`, `image-test`: a trained classifier, applied to files or tested on them."""

import typer

from fibo_robot.cli.classify import command, pictures, video_test


def register(app: typer.Typer) -> None:
    """Add `classify`, `video-test` and `image-test` to the command."""
    command.register(app)
    video_test.register(app)
    pictures.register(app)
