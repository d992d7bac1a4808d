import warnings

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


@pytest.mark.parametrize(
    "override", ["data.n_action_steps=2.0", "data.steps_per_epoch=1e3", "trainer.keep_last=1.5"]
)
def test_a_fraction_in_place_of_a_whole_number_is_said(override):
    with pytest.raises(ConfigError, match=rf"{override.split('=')[0]} must be a whole number like \d+, not"):
        compose_config(["experiment=lift_bc", override])
    assert compose_config(["experiment=lift_bc", "optimizer.lr=1"]).optimizer.lr == 1


def test_a_truth_value_in_place_of_a_number_is_said():
    with pytest.raises(ConfigError, match=r"trainer\.keep_last must be a number like \d+, not 'True'"):
        compose_config(["experiment=lift_bc", "trainer.keep_last=true"])


@pytest.mark.parametrize(
    ("override", "meant"), [("+lr=1e-3", "optimizer.lr"), ("+optimiser.lr=1e-3", "optimizer")]
)
def test_an_added_key_that_nothing_reads_is_refused(override, meant):
    key = override[1:].split("=")[0].split(".")[0]
    with pytest.raises(ConfigError, match=rf"'{key}': nothing reads it. Did you mean '{meant}"):
        compose_config(["experiment=lift_bc", override])


def test_an_added_key_that_others_refer_to_is_read():
    config = compose_config(["experiment=lift_bc", "+size=5", "data.batch_size=${size}"])
    assert config.data.batch_size == 5


@pytest.mark.parametrize("removed", ["logger", "seed", "optimizer", "trainer.keep_last"])
def test_a_key_that_is_needed_cannot_be_removed(removed):
    with pytest.raises(ConfigError, match=rf"^{removed}[._a-z]* cannot be removed"):
        compose_config(["experiment=lift_bc", f"~{removed}"])


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["network=mlp"],
        ["network=mlp", "network.width=64", "policy=act"],
        ["encoder=resnet18", "attention=castling"],
        ["experiment=tennis7", "readout=mean"],
    ],
)
def test_a_part_that_nothing_is_built_with_is_named(overrides):
    with pytest.warns(UserWarning, match=r"(network|attention|readout).* has no effect"):
        compose_config(["experiment=lift_bc", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [["policy=diffusion", "network=mlp", "network.width=64"], ["attention=castling"], ["readout=mean"]],
)
def test_a_part_that_something_is_built_with_is_not_spoken_of(overrides):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose_config(["experiment=lift_bc", *overrides])


def test_all_devices_can_be_asked_for():
    assert compose_config(["experiment=lift_bc", "trainer.devices=auto"]).trainer.devices == "auto"
    with pytest.raises(ConfigError, match=r"trainer.devices must be a number like 1, not 'all'"):
        compose_config(["experiment=lift_bc", "trainer.devices=all"])
