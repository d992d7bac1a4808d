"""Trains and tests what the plan says, one run after another; what is finished is never done again."""

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fibo_robot.attention.modules import AttentionModule
from fibo_robot.attention.sparse.reference import dense_mask
from fibo_robot.benchmarks.study.plan import TUNING_SEED, Run, Stage, Variant, order, overrides
from fibo_robot.files import write_json
from fibo_robot.processes import exit_with_parent
from fibo_robot.training.config import compose_config
from fibo_robot.training.run import train
from fibo_robot.video.images.classifier import ImageClassifier
from fibo_robot.video.images.evaluation import evaluate_pictures
from fibo_robot.video.images.predict import load_image_classifier
from fibo_robot.video.images.table import read_pictures

RECORD = "study.json"


@dataclass(frozen=True)
class Record:
    """What one run came to.

    Attributes:
        variant, seed, learning_rate: which run; see `plan.Run`.
        stage: name of the stage.
        density: share of the patch pairs that the attention computes, mean over layers and heads; None where
            it computes no pairs.
        steps, train_pictures: how much it was trained, on how many pictures.
        train_loss: of the last epoch.
        valid_accuracy: after the last epoch, on validation pictures.
        test_accuracy: after the last epoch, on the test part; None for runs that choose a learning rate.
        test_pictures: how many those were; None as above.
        correct: which of them were right, one bit each, as hexadecimal digits; None as above.
        mass: Castling's: share of softmax mass that the branches pass, in the last step of each epoch; None
            once they are off.
        seconds: CPU time of this process for training, in the sitting that finished it.
        load: load average of the machine when it was finished.
    """

    variant: str
    stage: str
    seed: int
    learning_rate: float
    density: float | None
    steps: int
    train_pictures: int
    train_loss: float
    valid_accuracy: float
    test_accuracy: float | None
    test_pictures: int | None
    correct: str | None
    mass: list[float | None] | None
    seconds: float
    load: float

    def outcomes(self) -> dict[int, bool]:
        """Whether each test picture was right, by its number; of a run that was tested."""
        assert self.correct is not None
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(self.correct), np.uint8), count=self.test_pictures)
        return dict(enumerate(bits.astype(bool).tolist()))


def run_study(
    stage: Stage, variants: Sequence[Variant], data: Path, folder: Path, jobs: int = 1
) -> list[Record]:
    """Do every run of the stage that is not finished yet; returns the records of all.

    Args:
        stage: which stage.
        variants: which variants.
        data: folder of the pictures, with a train and a test part.
        folder: takes a run directory per run; what is found there is gone on with.
        jobs: runs at once. With more than one, each has a process and its share of the CPU's cores.
    """
    runs = order(stage, variants)
    todo = [(number, run) for number, run in enumerate(runs, start=1) if not _is_done(stage, run, folder)]

    def begun(number: int, run: Run) -> tuple[Stage, Run, Path, Path]:
        chosen = run if run.learning_rate else replace(run, learning_rate=_best_rate(stage, run, folder))
        print(f"study {stage.name}: run {number} of {len(runs)}, {chosen.folder}", flush=True)
        return stage, chosen, data, folder / stage.name / chosen.folder

    if jobs == 1:
        for number, run in todo:
            _finish(*begun(number, run))
        return read_records(folder / stage.name)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")  # a process that has used CUDA cannot be forked
    with ProcessPoolExecutor(jobs, spawn, _prepare_worker, (threads,)) as pool:
        running: set[Future[None]] = set()
        while todo or running:
            ready = [item for item in todo if item[1].tunes or _is_tuned(stage, item[1], folder)]
            for item in ready[: jobs - len(running)]:
                todo.remove(item)
                running.add(pool.submit(_finish, *begun(*item)))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    return read_records(folder / stage.name)


def _prepare_worker(threads: int) -> None:
    exit_with_parent()
    torch.set_num_threads(threads)


def _finish(stage: Stage, run: Run, data: Path, place: Path) -> None:
    write_json(place / RECORD, asdict(_do(stage, run, data, place)))


def _is_done(stage: Stage, run: Run, folder: Path) -> bool:
    return (folder / stage.name / run.folder / RECORD).exists()


def _is_tuned(stage: Stage, run: Run, folder: Path) -> bool:
    """Whether all is there from which the run's learning rate is chosen."""
    return all(
        _is_done(stage, replace(run, seed=TUNING_SEED, learning_rate=rate), folder)
        for rate in stage.learning_rates
    )


def read_records(folder: Path) -> list[Record]:
    """The finished runs below a folder, by variant and seed."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*/{RECORD}"))]
    return [Record(**row) for row in rows]


def _best_rate(stage: Stage, run: Run, folder: Path) -> float:
    """The learning rate with the best validation accuracy; the smaller on a tie."""
    tuned = [
        r for r in read_records(folder / stage.name) if r.variant == run.variant.name and r.correct is None
    ]
    return min(tuned, key=lambda record: (-record.valid_accuracy, record.learning_rate)).learning_rate


def _do(stage: Stage, run: Run, data: Path, place: Path) -> Record:
    assert run.learning_rate is not None
    started = time.process_time()
    train(compose_config([*overrides(stage, run), f"data.root={data}", f"run_dir={place}"]))
    seconds = time.process_time() - started
    history = json.loads((place / "history.json").read_text(encoding="utf-8"))
    classifier = load_image_classifier(place, "cuda" if torch.cuda.is_available() else "cpu")
    correct = None
    if not run.tunes:
        correct = evaluate_pictures(classifier, read_pictures(data).part("test")).correct
    has_mass = "castling/mass_passed" in history[0]
    return Record(
        variant=run.variant.name,
        stage=stage.name,
        seed=run.seed,
        learning_rate=run.learning_rate,
        density=mean_density(classifier),
        steps=stage.epochs * stage.steps,
        train_pictures=stage.train_pictures,
        train_loss=history[-1]["train/loss"],
        valid_accuracy=history[-1]["valid/accuracy"],
        test_accuracy=None if correct is None else float(correct.mean()),
        test_pictures=None if correct is None else len(correct),
        correct=None if correct is None else np.packbits(correct).tobytes().hex(),
        mass=[row["castling/mass_passed"] for row in history] if has_mass else None,
        seconds=round(seconds, 1),
        load=round(os.getloadavg()[0], 1),
    )


def mean_density(classifier: ImageClassifier) -> float | None:
    """Share of the patch pairs that a model's attentions compute; None where they weigh no pairs."""
    prefix = classifier.encoder.num_prefix_tokens
    tokens = classifier.encoder.num_patches + prefix
    shares = []
    for module in classifier.encoder.vit.modules():
        if isinstance(module, AttentionModule):
            core: Any = module.core
            if hasattr(core, "offsets"):
                mask = dense_mask(core.offsets(tokens), tokens, prefix)
            elif hasattr(core, "mask"):
                mask = core.mask(tokens)
            else:
                return 1.0 if module.name == "softmax" else None
            shares.append(float(mask[:, prefix:, prefix:].float().mean()))
    return sum(shares) / len(shares)
