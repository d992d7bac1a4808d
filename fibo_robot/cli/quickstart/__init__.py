"""`fibo quickstart`: the main job, end to end."""

from fibo_robot.cli.quickstart.command import register

__all__ = ["register"]
