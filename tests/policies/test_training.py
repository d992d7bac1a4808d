"""Training a policy as a user does, from overrides: results, resuming, loading."""

import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fibo_robot.errors import FiboError
from fibo_robot.policies import load_policy
from fibo_robot.policies.module import DivergedError
from fibo_robot.processes import LOCK_FILE, BusyError
from fibo_robot.training.checkpoint import CheckpointError, load_checkpoint
from fibo_robot.training.overrides import train_from_overrides
from tests.processes import another_writer

EPOCHS = 4


def overrides(demonstrations: Path, run_dir: Path) -> list[str]:
    return [
        "experiment=lift_bc",
        f"data.path={demonstrations}",
        f"run_dir={run_dir}",
        "data.obs_keys=[robot0_eye_in_hand_image,robot0_eef_pos]",
        "data.batch_size=4",
        "data.steps_per_epoch=3",
        "policy.head.hidden=[16]",
        "policy.head.dropout=0.1",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.accelerator=cpu",
    ]


@pytest.fixture(scope="module")
def finished(demonstrations, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    return train_from_overrides(overrides(demonstrations, tmp_path_factory.mktemp("finished") / "run"))


def losses(run_dir: Path) -> list[float]:
    return [row["train/loss"] for row in json.loads((run_dir / "history.json").read_text())]


def start(warm: list[str], demonstrations: Path, run_dir: Path) -> subprocess.Popen:
    command = [*warm, "fibo", "train", *overrides(demonstrations, run_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_epoch(run_dir: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not (run_dir / "trainer.ckpt").exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_checkpoint_describes_itself(finished):
    meta = load_checkpoint(finished).meta
    assert meta["kind"] == "policy"
    assert meta["task"]["name"] == "lift"
    assert meta["dataset"]["demos"] == 3
    assert meta["shape_meta"]["obs"]["robot0_eye_in_hand_image"]["shape"] == [3, 84, 84]
    assert meta["epoch"] == EPOCHS
    assert set(meta["cost"]) == {"seconds", "cpu_seconds", "memory_mb"} and min(meta["cost"].values()) > 0


def test_two_trainings_into_one_run_directory_at_once_are_refused(demonstrations, tmp_path):
    with another_writer(tmp_path), pytest.raises(BusyError, match="is writing into"):
        train_from_overrides(overrides(demonstrations, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]  # of the one that was killed


def test_the_loaded_policy_acts(finished):
    policy = load_policy(finished)
    policy.reset([0])
    obs = {
        "robot0_eye_in_hand_image": torch.zeros(1, 1, 3, 84, 84, dtype=torch.uint8),
        "robot0_eef_pos": torch.zeros(1, 1, 3),
    }
    assert policy.act(obs, [0]).isfinite().all()
    assert policy.normalizer.fitted


def test_mixed_precision_trains_nearly_the_same_weights_and_saves_them_whole(
    demonstrations, finished, tmp_path
):
    run = train_from_overrides([*overrides(demonstrations, tmp_path / "run"), "trainer.precision=bf16-mixed"])
    assert losses(run) != losses(finished)
    assert losses(run) == pytest.approx(losses(finished), rel=0.02)
    ours, theirs = (load_checkpoint(folder).state_dict for folder in (run, finished))
    assert all(value.dtype == theirs[key].dtype for key, value in ours.items())


def test_tensorboard_shows_what_the_policy_sees_and_training_does_not_feel_it(
    demonstrations, finished, tmp_path
):
    """`finished` has TensorBoard too: its pictures. The run without has the same weights."""
    events = EventAccumulator(str(finished / "tensorboard"), {"images": 0})
    events.Reload()
    (seen,) = events.Images("seen/robot0_eye_in_hand_image")
    with Image.open(io.BytesIO(seen.encoded_image_string)) as shown:
        assert shown.width >= 72 and shown.height >= 72 and (shown.width * shown.height) % (72 * 72) == 0
    quiet = train_from_overrides([*overrides(demonstrations, tmp_path / "run"), "logger=none"])
    ours, theirs = (load_checkpoint(folder).state_dict for folder in (quiet, finished))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


def test_a_checkpoint_without_the_normalisers_statistics_does_not_load(finished, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in finished.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "action_scale" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="action_scale"):
        load_policy(tmp_path)


def test_a_config_that_names_foreign_code_is_refused(finished, tmp_path):
    for path in finished.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = (tmp_path / "config.yaml").read_text()
    assert "fibo_robot.policies.models.bc.BehaviourCloning" in config
    (tmp_path / "config.yaml").write_text(
        config.replace("fibo_robot.policies.models.bc.BehaviourCloning", "os.system")
    )
    with pytest.raises(CheckpointError, match=r"os\.system"):
        load_policy(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_same_result(demonstrations, finished, warm, tmp_path, how):
    run_dir = tmp_path / "run"
    process = start(warm, demonstrations, run_dir)
    wait_for_epoch(run_dir, process)
    os.kill(process.pid, how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), output
    assert "Traceback" not in output
    assert len(losses(run_dir)) < EPOCHS
    train_from_overrides(overrides(demonstrations, run_dir))
    assert losses(run_dir) == losses(finished)
    ours, theirs = load_checkpoint(run_dir).state_dict, load_checkpoint(finished).state_dict
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_another_config_does_not_continue_a_run(demonstrations, finished):
    with pytest.raises(FiboError, match=r"optimizer\.lr"):
        train_from_overrides([*overrides(demonstrations, finished), "optimizer.lr=1"])


def test_a_finished_run_is_left_alone(demonstrations, finished, capsys):
    before = (finished / "model.safetensors").read_bytes()
    train_from_overrides(overrides(demonstrations, finished))
    assert "already trained" in capsys.readouterr().out
    assert (finished / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "override",
    [
        *("trainer.precision=8", "trainer.accelerator=tpux", "optimizer.name=adamv", "data.batch_size=0"),
        *("trainer.max_epochs=0", "trainer.max_epochs=-1", "trainer.max_epochs=null"),
        *("trainer.checkpoint_every_n_epochs=0", "trainer.checkpoint_every_n_epochs=null"),
        *("trainer.keep_last=-1", "trainer.check_val_every_n_epoch=0", "trainer.accumulate_grad_batches=0"),
        *("trainer.ema_decay=1.0", "trainer.ema_decay=-0.5", "trainer.precision=bf16-true"),
        *("seed=-1", "seed=null", "seed=4294967296", "run_dir=null"),
        *(
            "data.obs_keys=[]",
            "data.max_demos=1.5",
            "data.cache_gb=nan",
            "data.seed=-1",
            "policy.head.modes=0",
            "policy.head.min_std=-1",
        ),
        *("+trainer.max_steps=0", "optimizer.lr=nan"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_and_leaves_nothing(demonstrations, tmp_path, override):
    run_dir = tmp_path / "run"
    with pytest.raises(FiboError):
        train_from_overrides([*overrides(demonstrations, run_dir), override])
    assert not run_dir.exists()


@pytest.mark.parametrize("end", ["+trainer.max_time=00:01:00:00", "+trainer.max_steps=-1"])
def test_a_training_without_an_end_for_its_learning_rate_is_refused(demonstrations, tmp_path, end):
    """Lightning would put an end of its own, a thousand epochs, or count infinitely many steps."""
    with pytest.raises(FiboError, match="no end that its learning rate could go by"):
        train_from_overrides([*overrides(demonstrations, tmp_path), "trainer.max_epochs=null", end])


def test_heads_that_do_not_divide_the_width_are_refused(demonstrations, tmp_path):
    settings = [one for one in overrides(demonstrations, tmp_path / "run") if "policy.head" not in one]
    with pytest.raises(FiboError, match="divisible"):
        train_from_overrides([*settings, "policy=act", "policy.heads=3"])


@pytest.mark.parametrize(("steps", "is_said"), [(3 * EPOCHS, True), (3 * EPOCHS - 1, False)])
def test_a_warm_up_that_training_does_not_outlast_is_said(demonstrations, tmp_path, recwarn, steps, is_said):
    settings = [*overrides(demonstrations, tmp_path / "run"), "data.obs_keys=[robot0_eef_pos]"]
    train_from_overrides([*settings, f"optimizer.warmup_steps={steps}"])
    said = [str(one.message) for one in recwarn if "before optimizer.lr is reached" in str(one.message)]
    assert bool(said) is is_said


@pytest.mark.parametrize("policy", [[], ["policy=bc", "network=mlp", "network.width=16"]])
def test_a_diverged_training_says_so_and_keeps_the_last_good_epoch(demonstrations, tmp_path, policy):
    run_dir = tmp_path / "run"
    # After a good epoch the weights are made what divergence makes of them.
    settings = [
        *(override for override in overrides(demonstrations, run_dir) if "policy.head" not in override),
        *("data.obs_keys=[robot0_eef_pos]", "data.valid_key=null", "optimizer.warmup_steps=3", *policy),
    ]
    train_from_overrides([*settings, "optimizer.schedule=constant_with_warmup", "trainer.max_epochs=1"])
    good = (run_dir / "model.safetensors").read_bytes()
    state = torch.load(run_dir / "trainer.ckpt", weights_only=True)
    state["current_model_state"] = {
        key: torch.full_like(value, float("nan")) if value.is_floating_point() else value
        for key, value in state["current_model_state"].items()
    }
    torch.save(state, run_dir / "trainer.ckpt")
    with pytest.raises(DivergedError, match="diverged in epoch 2: weights are no longer finite"):
        train_from_overrides([*settings, "optimizer.schedule=constant_with_warmup", "trainer.max_epochs=2"])
    assert (run_dir / "model.safetensors").read_bytes() == good


def test_a_training_that_ends_by_its_steps_is_saved(demonstrations, tmp_path):
    settings = [
        *overrides(demonstrations, tmp_path / "run"),
        *("data.obs_keys=[robot0_eef_pos]", "+trainer.max_steps=4", "trainer.checkpoint_every_n_epochs=10"),
    ]
    assert load_checkpoint(train_from_overrides(settings)).meta["step"] == 4
