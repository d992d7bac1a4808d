"""Training in several processes: the result of one, and only the first process speaks and writes."""

import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fibo_robot.training.config import ConfigError
from fibo_robot.training.overrides import train_from_overrides
from tests.video.clips import write_video

# Plain gradient descent: an adaptive optimiser divides rounding errors of small gradients by their size.
TINY = [
    "experiment=video_skills",
    "trainer.check_val_every_n_epoch=1",
    "attention=castling",
    # Every softmax weight passes the branch's mask: none lies so near the edge that rounding moves it across.
    "attention.threshold=0.01",
    "encoder.image_size=32",
    "encoder.frames=4",
    "encoder.tubelet=4",
    "data.cache_side=32",
    "data.steps_per_epoch=3",
    "optimizer=sgd",
    "optimizer.weight_decay=0.05",
    "optimizer.betas=null",
    "optimizer.lr=0.05",
    "optimizer.warmup_steps=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.ema_decay=null",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of noise, of which an odd number is for validation."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    rows = ["path,label,split"]
    for number in range(10):
        name, split = f"{number}.mp4", "test" if number < 3 else "train"
        write_video(folder / name, generator.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8), rate=10)
        rows.append(f"{name},{'even' if number % 2 else 'odd'},{split}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def one(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains with the doubled batch."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    return train_from_overrides(
        [*TINY, f"data.root={clips}", f"run_dir={run_dir}", "data.batch_size=4", "logger=none"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "nodes"), [("auto", 1), ("fsdp2", 2)])
def test_two_processes_train_what_one_trains_with_the_doubled_batch(
    strategy: str, nodes: int, one: Path, clips: Path, warm: list[str], tmp_path: Path
) -> None:
    if nodes == 1:
        meet = ["--standalone", "--nproc-per-node=2"]
    else:  # as on two machines, which are both this one
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = f"localhost:{free.getsockname()[1]}"
        meet = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={place}"]
    # Each process is given a folder of its own, so that whatever the second one wrote would be found.
    command = [
        *(*warm, "python", "-m", "torch.distributed.run", *meet, "--no-python"),
        *(*warm, "fibo", "train", *TINY, f"data.root={clips}", "data.batch_size=2"),
        *(f"trainer.devices={2 // nodes}", f"trainer.num_nodes={nodes}", f"trainer.strategy={strategy}"),
        f"run_dir={tmp_path}/rank_${{oc.env:RANK}}",
    ]
    launched = [
        subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(nodes)
    ]
    printed, errors = zip(*(process.communicate(timeout=400) for process in launched))
    assert all(process.returncode == 0 for process in launched), "\n".join(errors)[-3000:]
    assert "".join(printed).count("starting") == nodes  # each machine says that it begins
    assert "".join(printed).count("epoch 1/1") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank_0"]

    two = tmp_path / "rank_0"
    expected, found = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert expected.keys() == found.keys()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    before, after = (json.loads((run / "history.json").read_text()) for run in (one, two))
    for name in ("train/loss", "valid/loss", "valid/accuracy", "valid/accuracy_class_mean"):
        assert after[0][name] == pytest.approx(before[0][name], abs=1e-5), name


@pytest.mark.parametrize("given", ["trainer.ema_decay=0.99", "rollouts=held_out"])
def test_sharded_training_refuses_what_needs_a_whole_model(given: str, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ema_decay=null and rollouts=null"):
        train_from_overrides(
            [*TINY, f"data.root={clips}", f"run_dir={tmp_path / 'run'}", "trainer.strategy=fsdp2", given]
        )
