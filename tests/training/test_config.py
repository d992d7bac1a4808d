import pytest

from fibo_robot.training.config import ConfigError, compose_config, options_of


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"trainer.max_epoch'.*Did you mean 'trainer.max_epochs'"):
        compose_config(["experiment=lift_bc", "trainer.max_epoch=3"])


def test_an_unknown_top_level_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'sed'.*Did you mean 'seed'"):
        compose_config(["experiment=lift_bc", "sed=3"])


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no experiment named 'lift_bd'.*Did you mean 'lift_bc'"):
        compose_config(["experiment=lift_bd"])


def test_an_unknown_group_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'experimnt'.*Did you mean 'experiment'"):
        compose_config(["experimnt=lift_bc"])


def test_a_malformed_override_is_said():
    with pytest.raises(ConfigError):
        compose_config(["experiment=lift_bc", "trainer.max_epochs=["])


@pytest.mark.parametrize("override", ["seed=", "trainer.max_epochs=many", "optimizer.lr=fast"])
def test_text_in_place_of_a_number_is_said(override):
    with pytest.raises(ConfigError, match=rf"{override.split('=')[0]} must be a number"):
        compose_config(["experiment=lift_bc", override])


@pytest.mark.parametrize("experiment", options_of("experiment"))
def test_every_experiment_composes(experiment):
    config = compose_config([f"experiment={experiment}"])
    assert ("policy" in config) != ("classifier" in config)


@pytest.mark.parametrize(
    "group",
    ["attention", "encoder", "network", "observation", "policy", "readout", "optimizer", "trainer", "logger"],
)
def test_every_option_composes_with_an_experiment(group):
    for option in options_of(group):
        compose_config(["experiment=lift_bc", f"{group}={option}"])
