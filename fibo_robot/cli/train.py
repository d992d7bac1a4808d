"""`fibo train`: train a policy or a classifier from a Hydra config."""

import typer


def register(app: typer.Typer) -> None:
    """Add `train` to the command."""

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def train(context: typer.Context) -> None:
        """Train from a config: fibo train experiment=NAME [key=value ...]."""
        from fibo_robot.training.overrides import train_from_overrides

        train_from_overrides(context.args)
