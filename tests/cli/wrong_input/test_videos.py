"""Wrong input to the video commands: an unreadable file is named in one line, the others are classified."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fibo_robot.cli import main as command_line
from fibo_robot.training.overrides import train_from_overrides
from tests.cli.wrong_input.refusals import run
from tests.video.clips import write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of two classes, with the table that names them."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["path,label,split"]
    for label, level in (("dark", 20), ("bright", 200)):
        pictures = np.full((8, 64, 64, 3), level, np.uint8)
        pictures += np.arange(8, dtype=np.uint8)[:, None, None, None]
        for index, split in enumerate(("train", "test")):
            clip = write_video(folder / f"{label}_{index}.mp4", pictures, rate=10)
            rows.append(f"{clip.name},{label},{split}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def classifier(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after one step of training, which knows its labels and little else."""
    run_dir = tmp_path_factory.mktemp("classifier") / "run"
    small = ("trainer.max_epochs=1", "data.steps_per_epoch=1", "data.batch_size=2", "trainer.accelerator=cpu")
    train_from_overrides(
        ["experiment=video_skills", f"data.root={clips}", f"run_dir={run_dir}", "logger=none", *small]
    )
    return run_dir


def write_broken(kind: str, clips: Path) -> Path:
    path = Path("broken.mp4")
    whole = (clips / "dark_0.mp4").read_bytes()
    content = {"empty": b"", "text": b"no video\n" * 50, "truncated": whole[: len(whole) // 2]}
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_undecodable_video_is_named_and_the_others_are_classified(
    capsys: pytest.CaptureFixture[str], classifier: Path, clips: Path, kind: str
) -> None:
    broken = write_broken(kind, clips)
    good = clips / "bright_0.mp4"
    status, out, err = run(capsys, "classify", str(classifier), str(broken), str(good), "--json", "-")
    assert status == 3
    assert "Traceback" not in err
    messages = [line for line in err.splitlines() if line.startswith("fibo: ")]
    assert "broken.mp4" in messages[0] and "1 of 2 files" in messages[-1]
    failed, classified = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert failed["path"].endswith("broken.mp4") and failed["error"]
    assert {score["label"] for score in classified["predictions"]} == {"dark", "bright"}
    assert [path.name for path in Path.cwd().iterdir()] == ["broken.mp4"]


def test_names_are_shown_and_written_as_they_are(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, classifier: Path, clips: Path
) -> None:
    """Of files in another encoding than UTF-8, and with what rich would take for markup."""
    for name in (b"caf\xe9.mp4", b"match [final] [].mp4", b"[oops] :dog:.mp4"):
        shutil.copy(clips / "dark_0.mp4", os.fsdecode(name))
    for command in (
        ["classify", str(classifier), ".", "--csv", "out.csv", "--top-k", "1"],
        ["data", "check", ".", "--output", "checked.csv"],
        ["data", "check", ".", "--output", "checked.csv"],  # which reads the rows that are there
    ):
        monkeypatch.setattr(sys, "argv", ["fibo", *command])
        with pytest.raises(SystemExit, match="0"):
            command_line.main()
        out = capsysbinary.readouterr().out
        if command[0] == "classify":
            assert b"caf\xe9.mp4" in out and b"match [final] [].mp4" in out and b"[oops] :dog:.mp4" in out
    for table in ("out.csv", "checked.csv"):
        assert b"\ncaf\xe9.mp4," in Path(table).read_bytes()


def refusal(result: tuple[int, str, str]) -> str:
    status, _, err = result
    assert status == 1
    (message,) = err.strip().splitlines()
    assert message.startswith("fibo: ")
    return message


def test_missing_video_is_named(capsys: pytest.CaptureFixture[str], classifier: Path) -> None:
    assert "nowhere.mp4" in refusal(run(capsys, "classify", str(classifier), "nowhere.mp4"))


def test_folder_without_videos_is_named(capsys: pytest.CaptureFixture[str], classifier: Path) -> None:
    Path("nothing").mkdir()
    assert "nothing" in refusal(run(capsys, "classify", str(classifier), "nothing"))


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors"])
def test_classifier_with_a_file_missing_names_the_file(
    capsys: pytest.CaptureFixture[str], classifier: Path, clips: Path, name: str
) -> None:
    Path("run").mkdir()
    for file in ("config.yaml", "meta.json", "model.safetensors"):
        if file != name:
            Path("run", file).write_bytes((classifier / file).read_bytes())
    assert name in refusal(run(capsys, "classify", "run", str(clips / "dark_0.mp4")))


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_training_on_no_clips_is_refused(capsys: pytest.CaptureFixture[str], root: str) -> None:
    Path("empty").mkdir()
    result = run(capsys, "train", "experiment=video_skills", f"data.root={root}", "run_dir=run")
    assert root in refusal(result)
    assert not Path("run").exists()


@pytest.mark.parametrize("command", [["classify", "run", "clip.mp4"], ["video-test", "run", "--data", "."]])
def test_devices_are_chosen_from_a_list(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    status, _, err = run(capsys, *command, "--device", "gpu")
    assert status == 2
    assert all(name in err for name in ("'gpu'", "auto", "cpu", "cuda"))


@pytest.mark.parametrize("window", ["inf", "nan", "0"])
def test_a_window_without_a_length_is_named(
    capsys: pytest.CaptureFixture[str], classifier: Path, clips: Path, window: str
) -> None:
    clip = str(clips / "dark_0.mp4")
    assert "window" in refusal(run(capsys, "classify", str(classifier), clip, "--window", window))


def test_damaged_tables_are_one_sentence(capsys: pytest.CaptureFixture[str], clips: Path) -> None:
    Path("clips.csv").write_text("path,label\na.mp4\n")
    assert "line 2" in refusal(run(capsys, "train", "experiment=video_skills", "data.root=.", "run_dir=run"))
    Path("clips.csv").write_bytes("path,label\na.mp4,fußball\n".encode("latin-1"))
    assert "UTF-8" in refusal(run(capsys, "data", "check", "."))
