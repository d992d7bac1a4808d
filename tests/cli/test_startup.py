"""What a command imports decides how long its first answer takes: trainers and simulators stay out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fibo_robot.encoders import create_video_encoder
from fibo_robot.training.checkpoint import save_checkpoint
from fibo_robot.video.classifier import VideoClassifier
from tests.video.clips import numbered_frames, write_video
from tests.video.command_line import ENCODER, LABELS

# Runs `fibo` with the given arguments and prints last which packages it has imported, and PyTorch's compiler.
FIBO = """
import json, sys
from fibo_robot.cli.main import main
status = 0
try:
    main()
except SystemExit as stopped:
    status = stopped.code
COMPILER = {"torch._dynamo", "torch._inductor"}
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} | COMPILER & sys.modules.keys())))
sys.exit(status)
"""
TRAINERS = {"lightning", "torchmetrics", "transformers", "diffusers", "tensorboard", "matplotlib"}
SIMULATORS = {"robosuite", "mujoco", "robomimic", "gymnasium", "h5py"}
COMPILERS = {"numba", "triton", "torch._dynamo", "torch._inductor", "sympy"}


def imported_by(*arguments: str, status: int = 0) -> set[str]:
    """The packages that a `fibo` command has imported when it ends, with that status."""
    done = subprocess.run([sys.executable, "-c", FIBO, *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A checkpoint as `fibo train` writes one, of a classifier that has learnt nothing."""
    model = VideoClassifier(lambda: create_video_encoder(**ENCODER), LABELS)
    encoder = {"_target_": "fibo_robot.encoders.create_video_encoder", "_partial_": True, **ENCODER}
    target = {"_target_": "fibo_robot.video.classifier.VideoClassifier", "_partial_": True}
    sampling, cropping = model.sampling.to_dict(), model.cropping.to_dict()
    meta = {"kind": "classifier", "labels": LABELS, "sampling": sampling, "cropping": cropping}
    config = {"classifier": {"classifier": {**target, "encoder": encoder}}}
    save_checkpoint(tmp_path / "run", model.state_dict(), config, meta)
    return tmp_path / "run"


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("--help").isdisjoint({"torch", "numpy", "rich", *TRAINERS, *SIMULATORS, *COMPILERS})


def test_a_mistake_in_a_config_is_told_before_the_trainer_is_imported() -> None:
    imported = imported_by("train", "experiment=no_such_thing", status=1)
    assert "hydra" in imported and imported.isdisjoint({"torch", *TRAINERS, *SIMULATORS, *COMPILERS})


def test_classifying_a_clip_imports_neither_trainer_nor_simulator(classifier: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", numbered_frames(8, 64, 64))
    imported = imported_by("classify", str(classifier), str(clip), "--json", str(tmp_path / "out.jsonl"))
    assert {"torch", "timm"} <= imported  # it has really classified
    assert "predictions" in (tmp_path / "out.jsonl").read_text()
    assert imported & {*TRAINERS, *SIMULATORS, *COMPILERS, "scipy"} == set()


def test_using_a_policy_does_not_import_the_trainer() -> None:
    modules = ["fibo_robot.policies", "fibo_robot.cli.rollout", "fibo_robot.envs.rollouts.api"]
    program = (
        "import importlib, json, sys\n"
        "print(json.dumps([(importlib.import_module(name), list(sys.modules))[1] for name in sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True
    )
    for module, imported in zip(modules, json.loads(done.stdout), strict=True):
        assert {name.partition(".")[0] for name in imported}.isdisjoint(TRAINERS), module
        assert "scipy.stats" not in imported, module
