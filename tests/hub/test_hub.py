"""Models on the Hub: what is uploaded, what is fetched, and that both work like a run directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fibo_robot.encoders import create_video_encoder
from fibo_robot.hub.card import make_card
from fibo_robot.hub.push import push, write_folder
from fibo_robot.hub.source import HubError, local_folder, results_folder
from fibo_robot.policies import load_policy
from fibo_robot.training.checkpoint import load_checkpoint, save_checkpoint, state_digest
from fibo_robot.video import load_classifier
from fibo_robot.video.classifier import VideoClassifier
from tests.hub.server import Hub
from tests.video.command_line import ENCODER, LABELS, run


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A run directory of a classifier, with a test of its weights and one of others."""
    folder = tmp_path / "skills"
    model = VideoClassifier(lambda: create_video_encoder(**ENCODER), LABELS)
    encoder = {"_target_": "fibo_robot.encoders.create_video_encoder", "_partial_": True, **ENCODER}
    target = {"_target_": "fibo_robot.video.classifier.VideoClassifier", "_partial_": True}
    config = {"classifier": {"classifier": {**target, "encoder": {**encoder, "attention": "fibottention"}}}}
    meta = {"kind": "classifier", "labels": LABELS, "sampling": {"frames": 4}, "cropping": {}}
    save_checkpoint(folder, model.state_dict(), config, {**meta, "dataset": {"name": "robots"}})
    (folder / "trainer.ckpt").write_bytes(b"a pickle")
    rates = {"value": 0.75, "low": 0.5, "high": 0.9}
    test = {"videos": 20, "views": 2, "crops": 3, "top1": rates, "top5": None, "failures": {}}
    for name, weights in (("test", state_digest(model.state_dict())), ("before", "other")):
        (folder / name).mkdir()
        (folder / name / "test.json").write_text(json.dumps({**test, "weights": weights}))
        (folder / name / "confusion.png").write_bytes(b"picture")
    return folder


def same_scores(first: Path | str, second: Path | str) -> bool:
    clips = torch.randint(0, 255, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        return torch.equal(load_classifier(first)(clips), load_classifier(second)(clips))


def test_what_is_pushed_is_a_run_directory_on_the_hub(classifier: Path, hub: Hub) -> None:
    address, card = push(classifier, "owner/skills")
    assert address == f"{hub.address}/owner/skills"
    assert set(hub.files["owner/skills"]) == {
        "README.md",
        "config.yaml",
        "meta.json",
        "model.safetensors",
        "test/test.json",
        "test/confusion.png",
    }
    assert hub.files["owner/skills"]["README.md"].decode() == card.text
    assert same_scores("hf:owner/skills", classifier)
    assert load_checkpoint("hf:owner/skills").name.startswith("hf:owner/skills@c0ffee")


def test_fetching_takes_named_files_alone_and_works_without_network_afterwards(
    classifier: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(classifier, "owner/skills")
    dangerous = {"trainer.ckpt", "model.bin", "weights.pkl", "modeling.py", "sub/config.yaml"}
    hub.files["owner/skills"] |= dict.fromkeys(dangerous, b"code")
    folder = local_folder("hf:owner/skills")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "meta.json", "model.safetensors"}
    assert not any(request.endswith(tuple(dangerous)) for request in hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert local_folder("hf:owner/skills") == folder
    assert local_folder(folder.parent.parent) == folder  # the cache's own layout
    with pytest.raises(HubError, match="cannot be reached"):
        local_folder("hf:owner/other")


def test_what_the_hub_lacks_is_said(hub: Hub) -> None:
    hub.files["owner/empty"] = {}
    with pytest.raises(HubError, match="no repository owner/absent"):
        local_folder("hf:owner/absent")
    with pytest.raises(HubError, match="does not give hf:owner/empty@v9"):
        local_folder("hf:owner/empty@v9")
    for name in ("hf:name", "hf:a/b/c", "hf:../etc", "hf:owner/name@"):
        with pytest.raises(HubError, match="owner/name"):
            local_folder(name)


def test_card_tells_what_was_measured_of_these_weights(classifier: Path) -> None:
    checkpoint = load_checkpoint(classifier)
    # What a test of the loaded model names is what the card looks for.
    assert state_digest(load_classifier(classifier).state_dict()) == state_digest(checkpoint.state_dict)
    card = make_card(checkpoint, "owner/skills")
    assert "pipeline_tag: video-classification" in card.text
    assert (
        "| top-1 accuracy | 75.0 % | 50.0 to 90.0\N{NO-BREAK SPACE}% | 20 videos, 2 views x 3 crops |"
        in card.text
    )
    assert "attention `fibottention`" in card.text and ", ".join(LABELS) in card.text
    assert "data: name robots" in card.text and "![test: confusion matrix](test/confusion.png)" in card.text
    assert card.left_out == (classifier / "before" / "test.json",) and "before" not in card.text
    (classifier / "test" / "test.json").write_text("{")
    with pytest.raises(HubError, match=r"test\.json is damaged"):
        make_card(load_checkpoint(classifier), "owner/skills")


def test_card_of_a_policy_has_its_rollouts_and_a_film(tmp_path: Path) -> None:
    folder = tmp_path / "lift"
    state = {"weight": torch.ones(2)}
    meta = {"kind": "policy", "task": {"name": "lift"}, "shape_meta": {"obs": {"agentview_image": {}}}}
    save_checkpoint(folder, state, {"policy": {}}, meta)
    videos = folder / "rollouts" / "videos"
    videos.mkdir(parents=True)
    for name in ("seed_000001_success.mp4", "grid.mp4"):
        (videos / name).write_bytes(b"film")
    total = {"success_once": 0.9, "success_interval": [0.699, 0.972], "n_counted": 20, "n_errors": 1}
    evaluation = {
        "aggregated": total,
        "per_episode": [{"seed": seed} for seed in range(100, 121)],
        "task": {"name": "lift"},
        "other_task": {},
        "policy": {"weights": state_digest(state)},
    }
    (folder / "rollouts" / "eval.json").write_text(json.dumps(evaluation))
    card = make_card(load_checkpoint(folder), "owner/lift")
    assert "| success on lift | 90.0 % | 69.9 to 97.2\N{NO-BREAK SPACE}% |" in card.text
    assert "| 20 episodes, seeds 100 to 120, 1 more did not run to their end |" in card.text
    assert "rollouts/videos/grid.mp4" in card.text and "seed_000001" not in card.text
    assert "fibo rollout hf:owner/lift" in card.text
    assert card.files == (Path("rollouts/eval.json"), Path("rollouts/videos/grid.mp4"))


def test_folder_is_written_whole_or_not_at_all(classifier: Path, tmp_path: Path) -> None:
    target = tmp_path / "to_look_at"
    status, _, errors = run("push", classifier, "owner/skills", "--folder", target)
    assert status == 0 and "left out" in errors
    assert same_scores(target, classifier) and not (target / "trainer.ckpt").exists()
    write_folder(classifier, "owner/skills", target)  # again, over its predecessor
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(HubError, match="no folder of a model"):
        write_folder(classifier, "owner/skills", tmp_path / "mine")
    with pytest.raises(HubError, match="itself"):
        write_folder(classifier, "owner/skills", classifier)
    with pytest.raises(HubError, match="owner/name"):
        write_folder(classifier, "skills", tmp_path / "new")
    assert (tmp_path / "mine" / "thesis.tex").exists() and not (tmp_path / "new").exists()


def test_results_of_a_model_on_the_hub_go_to_a_folder_here() -> None:
    assert results_folder("hf:owner/lift@v1") == Path("runs/lift")
    assert results_folder("runs/mine") == Path("runs/mine")


def test_refused_upload_says_what_to_do(classifier: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"{hub.address}/elsewhere")
    with pytest.raises(HubError, match="hf auth login"):
        push(classifier, "owner/skills")


def test_endpoint_is_read_from_the_environment(classifier: Path, hub: Hub, tmp_path: Path) -> None:
    push(classifier, "owner/skills")
    program = "import sys; from fibo_robot.hub.source import local_folder; print(local_folder(sys.argv[1]))"
    settings = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", program, "hf:owner/skills"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "model.safetensors").is_file()
    assert str(tmp_path / "home") in done.stdout


def test_a_policy_is_loaded_from_the_hub_or_refused_like_a_folder(classifier: Path, hub: Hub) -> None:
    from fibo_robot.training.checkpoint import CheckpointError

    push(classifier, "owner/skills")
    with pytest.raises(CheckpointError, match=r"hf:owner/skills@\w+ holds a classifier"):
        load_policy("hf:owner/skills")
