"""Recording, replaying and converting demonstrations in the simulator."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations import record as recording
from fibo_robot.envs.demonstrations.convert import convert_demonstrations
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.record import Recording, record_demonstrations
from fibo_robot.envs.demonstrations.replay import replay_demonstrations
from fibo_robot.envs.demonstrations.writer import Demonstration
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.tasks import simulator_versions
from fibo_robot.errors import FiboError
from tests.envs.demonstrations.opened import keep_last, opened

pytestmark = pytest.mark.sim
TASK = get_task("lift", cameras=("agentview",), image_size=32)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demos") / "lift.hdf5"
    record_demonstrations(TASK, path, Recording(episodes=2, seed=40, noise=0.1))
    return path


def test_recorded_actions_replay_to_the_recorded_states(recorded: Path) -> None:
    done = CliRunner().invoke(app, ["demos", "replay", str(recorded), "--by", "actions", "--workers", "1"])
    assert done.exit_code == 0 and "2 of 2 replays by actions end in success" in done.output
    kept = json.loads(recorded.with_suffix(".replay.json").read_text(encoding="utf-8"))
    assert (kept["successes"], kept["max_state_error"], kept["max_object_drift"]) == (2, 0.0, 0.0)
    assert (kept["file"], kept["recorded_by"], kept["mode"]) == ("lift.hdf5", "scripted expert", "delta")
    assert kept["replayed_with"] == kept["recorded_with"] == simulator_versions()


def test_an_object_that_goes_elsewhere_is_measured(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.hdf5"
    path.write_bytes(recorded.read_bytes())
    with opened(path, "r+") as file:
        file["data/demo_0/actions"][:, 2] = 0.0  # the hand stays up: the cube is not lifted
        lifted = np.ptp(file["data/demo_0/obs/object"][:, 2])
    replay = replay_demonstrations(path, by="actions").to_dict()
    assert replay["failed"] == ["demo_0"]
    assert replay["max_object_drift"] == pytest.approx(lifted, abs=0.03)


def test_recorded_observations_belong_to_the_recorded_states(recorded: Path) -> None:
    env = TASK.make_env()
    with DemonstrationFile(recorded) as file:
        assert file.attributes("demo_1")["seed"] == 41
        env.take_geometry(file.attributes("demo_1")["model_file"])
        env.show_state(file.states("demo_1")[10])
        seen = env.observe()
        np.testing.assert_array_equal(
            file.observation("demo_1", "agentview_image")[10], seen["agentview_image"].transpose(1, 2, 0)
        )
        np.testing.assert_array_equal(file.observation("demo_1", "object")[10], seen["object"])
        noise = file.actions("demo_1") - file.array("demo_1", "expert_actions")[:]
        assert 0.02 < noise[:, :6].std() < 0.12  # less than 0.1 where clipped to the range
        assert (noise[:, 6] == 0).all()
        rewards, dones = file.array("demo_1", "rewards")[:], file.array("demo_1", "dones")[:]
        assert rewards[-6:].all() and dones[-1] == 1 and rewards[0] == dones[0] == 0
    env.close()


def test_a_recording_continues_after_an_interruption(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "lift.hdf5"
    performed: list[int] = []
    run_expert = recording.run_expert

    def interrupted(env: object, seed: int, noise: float, missed_grasps: float) -> object:
        if not performed:
            performed.append(seed)
            return run_expert(env, seed, noise, missed_grasps)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "run_expert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record_demonstrations(TASK, target, Recording(2, 40, 0.1))
    assert not target.exists()
    monkeypatch.setattr(recording, "run_expert", run_expert)
    record_demonstrations(TASK, target, Recording(2, 40, 0.1))
    with opened(recorded) as whole, opened(target) as resumed:
        for demo in ("demo_0", "demo_1"):
            for key in ("actions", "states", "obs/agentview_image"):
                np.testing.assert_array_equal(
                    whole[f"data/{demo}/{key}"][:], resumed[f"data/{demo}/{key}"][:]
                )


def test_a_finished_file_is_kept_and_another_recording_is_refused(recorded: Path) -> None:
    before = recorded.stat().st_mtime_ns
    assert record_demonstrations(TASK, recorded, Recording(2, 40, 0.1)).episodes == 2
    assert recorded.stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match="another noise"):
        record_demonstrations(TASK, recorded, Recording(2, 40, 0.3))
    smoother = replace(TASK, quality=RenderQuality(multisamples=8))
    with pytest.raises(DatasetError, match="another quality"):
        record_demonstrations(smoother, recorded, Recording(2, 40, 0.1))


def test_failed_episodes_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_expert = recording.run_expert

    def failing(env: SimulationEnv, seed: int, noise: float, missed_grasps: float) -> Demonstration | None:
        return None if seed in (41, 42) else run_expert(env, seed, noise, missed_grasps)

    monkeypatch.setattr(recording, "run_expert", failing)
    target = tmp_path / "lift.hdf5"
    task = replace(TASK, cameras=())
    done = record_demonstrations(task, target, Recording(2, 40, 0.1))
    assert (done.episodes, done.tries) == (2, 4)
    with DemonstrationFile(target) as file:
        assert [file.attributes(demo)["seed"] for demo in file.demos] == [40, 43]
        assert all(file.attributes(demo)["success"] for demo in file.demos)
    assert record_demonstrations(task, target, Recording(2, 40, 0.1)).tries == 4  # told again, not played


def test_missed_grasps_are_recovered_from_and_recorded_as_such() -> None:
    """The gripper closes on nothing in every episode that is asked for; the expert means to open it."""
    env = TASK.make_env(["robot0_gripper_qpos", "robot0_eef_pos"])
    for seed in (40, 41, 42):
        demonstration = recording.run_expert(env, seed, 0.0, missed_grasps=1.0)
        undisturbed = recording.run_expert(env, seed, 0.0)
        assert demonstration is not None and undisturbed is not None
        meant, done = demonstration.extra["expert_actions"], demonstration.actions
        missed = (done[:, 6] > 0) & (meant[:, 6] < 0)
        assert 6 <= missed.sum() < 24
        # It begins on the way to the cube, and rises with fingers that hold nothing.
        before = int(np.flatnonzero(missed)[0])
        assert (done[:before] == undisturbed.actions[:before]).all()
        heights = demonstration.obs["robot0_eef_pos"][:, 2]
        assert heights[missed][-1] > heights[missed][0]
        fingers = np.abs(demonstration.obs["robot0_gripper_qpos"]).sum(1)
        assert fingers[before] > 0.07 > 0.05 > fingers[missed].min()
        assert demonstration.rewards[-6:].all()
        assert len(done) > len(undisturbed.actions)
        assert (undisturbed.actions == undisturbed.extra["expert_actions"]).all()
    env.close()


def test_a_share_of_missed_grasps_outside_its_range_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"share in 0 to 1, not 1\.5"):
        Recording(1, missed_grasps=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["can", "square", "stack"])
def test_every_experts_recording_replays_to_the_recorded_states(name: str, tmp_path: Path) -> None:
    task = get_task(name, cameras=())
    record_demonstrations(task, tmp_path / "demos.hdf5", Recording(episodes=1, seed=60))
    replay = replay_demonstrations(tmp_path / "demos.hdf5", by="actions")
    assert (replay.successes, replay.to_dict()["max_state_error"]) == (1, 0.0)


def test_a_task_without_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FiboError, match="no scripted expert for the task 'tool_hang'"):
        record_demonstrations(get_task("tool_hang"), tmp_path / "x.hdf5", Recording(1))


def test_states_of_another_scene_are_refused(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.hdf5"
    path.write_bytes(recorded.read_bytes())
    with opened(path, "r+") as file:
        del file["data/demo_0/states"]
        file["data/demo_0/states"] = np.zeros((len(file["data/demo_0/actions"]), 40))
    with pytest.raises(DatasetError, match="have 40 entries"):
        replay_demonstrations(path)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(recorded: Path, tmp_path: Path) -> None:
    record_demonstrations(TASK, tmp_path / "lift.hdf5", Recording(2, 40, 0.1), workers=2)
    with opened(recorded) as one, opened(tmp_path / "lift.hdf5") as two:
        for demo in ("demo_0", "demo_1"):
            for key in ("actions", "states", "obs/agentview_image", "obs/object"):
                np.testing.assert_array_equal(one[f"data/{demo}/{key}"][:], two[f"data/{demo}/{key}"][:])


@pytest.fixture
def three_human_demos(shared_data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "raw.hdf5"
    with (
        opened(shared_data / "robot" / "lift_panda_human29_raw.hdf5") as whole,
        opened(path, "w") as part,
    ):
        data = part.create_group("data")
        data.attrs.update(whole["data"].attrs)
        for demo in ("demo_1", "demo_4", "demo_11"):
            whole.copy(f"data/{demo}", data)
        for key in whole["mask"]:
            names = [name for name in whole[f"mask/{key}"][:] if name.decode() in data]
            part[f"mask/{key}"] = np.array(names, dtype="S")
    keep_last(path, 12)
    return path


@pytest.mark.data
def test_human_demonstrations_still_succeed_by_state(three_human_demos: Path) -> None:
    assert replay_demonstrations(three_human_demos, by="states").successes == 3


@pytest.mark.data
@pytest.mark.slow
def test_human_demonstrations_are_converted_with_their_names_and_masks(
    three_human_demos: Path, tmp_path: Path
) -> None:
    done = convert_demonstrations(three_human_demos, tmp_path / "image.hdf5", image_size=32)
    assert (done.episodes, done.successes) == (3, 3)
    with DemonstrationFile(three_human_demos) as raw, DemonstrationFile(done.path) as converted:
        assert converted.demos == raw.demos
        assert {key: converted.mask(key) for key in converted.masks} == {
            key: raw.mask(key) for key in raw.masks
        }
        np.testing.assert_array_equal(converted.actions("demo_4"), raw.actions("demo_4"))
        pictures = converted.observation("demo_4", "robot0_eye_in_hand_image")
        assert pictures.shape == (raw.length("demo_4"), 32, 32, 3)
        assert converted.task().image_size == 32
        # The object observation starts with the cube's position, which is also in the raw state.
        cube = converted.observation("demo_4", "object")[:, :3]
        np.testing.assert_allclose(cube, raw.states("demo_4")[:, 10:13], atol=1e-6)
