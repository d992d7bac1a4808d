"""The quickstart's report shows what the stages left, by the same means as every evaluation's report."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fibo_robot.cli.quickstart import report
from fibo_robot.encoders import create_encoder
from fibo_robot.files import write_json
from fibo_robot.training.checkpoint import HISTORY, save_checkpoint
from tests.envs.results.comparison.test_comparison import evaluation
from tests.reporting.test_report import write_film

STAGES = [{"lane": "policy", "title": "Train", "command": "fibo train", "seconds": 60.0}]


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stages leave, videos aside; the policy is one encoder."""
    meta = {"dataset": {"demos": 80}, "versions": {"mujoco": "3.9.0"}}
    save_checkpoint(tmp_path / "policy", {"weight": torch.zeros(1)}, {"name": "quickstart"}, meta)
    run = evaluation("sssssssssssssssssf")
    training = {"config": {"optimizer": {"lr": 0.125}}, "history": [{"step": 1, "train/loss": 1.0}]}
    values = {**run.to_dict(), "training": training, "notes": ["The versions differ."]}
    write_json(tmp_path / "rollouts" / "eval.json", values)
    for name, accuracy in (("classifier", 1.0), ("single_frame", 0.25)):
        write_json(tmp_path / name / HISTORY, [{"step": 5, "valid/accuracy": accuracy}])
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "clips.csv").write_text("path,label\ntest/a.mp4,open\n")
    clip = write_film(tmp_path / "skills" / "a.mp4")
    row = {"path": str(clip), "predictions": [{"label": "shut", "probability": 0.9}]}
    (tmp_path / "classified.jsonl").write_text((json.dumps(row) + "\n") * 36)
    encoder = create_encoder("vit_micro", attention="fibottention", image_size=24)
    policy = SimpleNamespace(image_encoders=lambda: {"agentview_image": encoder})
    monkeypatch.setattr(report, "load_policy", lambda path: policy)
    return tmp_path


def test_page_shows_the_evaluation_the_classifier_and_the_attention(output: Path) -> None:
    page = report.write_report(output, STAGES).read_text(encoding="utf-8")
    assert "17 of 18 fresh seeds, 95 % interval 74.2 to 99.0\N{NO-BREAK SPACE}%" in page
    assert "36 of 36 held-out clips, 95 % interval 90.4 to 100.0\N{NO-BREAK SPACE}%" in page
    assert "Behaviour cloning on 80 scripted demonstrations" in page
    assert "The versions differ." in page
    assert "open: classified as shut (90%)" in page and page.count("data:video/mp4") == 1
    assert "Configuration of the training: policy" in page and "lr: 0.125" in page
    assert "masks by the rule paper (agentview_image)" in page
