"""`fibo train`: train a policy or a classifier from a Hydra config."""

import typer


def register(app: typer.Typer) -> None:
    """Add `train` to the command."""

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def train(context: typer.Context) -> None:
        """Train from a config: fibo train experiment=NAME [key=value ...]."""
        overrides = context.args
        if not {"-m", "--multirun"} & set(overrides):
            from fibo_robot.training.config import compose_config

            compose_config(overrides)  # a mistake is told before the trainer is imported, which takes seconds

        from fibo_robot.training.run import train_from_overrides

        train_from_overrides(overrides)
