"""Success in the simulator while a policy is trained, on seeds that no demonstration or result has."""

import io
import shutil
from copy import deepcopy
from pathlib import Path

import av
import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  (generated)

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.policies.data.module import DemonstrationData
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.training.callbacks.averaging import module_to_save
from fibo_robot.training.callbacks.checkpoint_directory import is_due

FOLDER, METRIC = "rollouts_in_training", "rollout/success"


class HeldOutRollouts(pl.Callback):
    """Rolls the policy out at the end of every `every_n_epochs`-th epoch and of the last.

    What it finds goes into the history and the logger as `rollout/success`, and whole, with films, into
    `RUN/rollouts_in_training/epoch_N`. The weights are those that the epoch's checkpoint holds. Training is
    the same with and without it. A checkpoint that is chosen by these rates is chosen on these seeds: judge
    it on others, as `fibo rollout` does by default.

    Args:
        run_dir: the run directory.
        every_n_epochs: epochs between two evaluations.
        episodes: of each evaluation, one seed each.
        first_seed: of the first episode.
        workers: simulators side by side.
        videos: films of the first so many seeds.

    Raises:
        RolloutError: `every_n_epochs`, `episodes` or `workers` is not positive.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_epochs: int = 10,
        episodes: int = 20,
        first_seed: int = 200_000,
        workers: int = 2,
        videos: int = 0,
    ) -> None:
        if min(every_n_epochs, episodes, workers) < 1:
            raise RolloutError("rollouts.every_n_epochs, episodes and workers must be positive.")
        self.run_dir, self.every_n_epochs = run_dir, every_n_epochs
        self.seeds = range(first_seed, first_seed + episodes)
        self.workers, self.videos = workers, videos

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if not is_due(trainer, self.every_n_epochs):
            trainer.callback_metrics.pop(METRIC, None)  # Lightning keeps the last value, of an earlier epoch
            return
        if trainer.is_global_zero:
            evaluation = self._evaluate(trainer, pl_module, done)
            pl_module.log(METRIC, evaluation.success_rate, rank_zero_only=True)
            self._show_films(trainer, evaluation, done)
        trainer.strategy.barrier()  # the others wait for the first process

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> Evaluation:
        data: object = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(data, DemonstrationData)
        policy = deepcopy(module_to_save(trainer, pl_module).model)
        assert isinstance(policy, ChunkPolicy)
        folder = self._folder(epoch)
        shutil.rmtree(folder, ignore_errors=True)  # of an epoch that was interrupted and is trained again
        return rollout(
            policy.eval(),
            data.task,
            self.seeds,
            self.workers,
            output=folder,
            videos=min(self.videos, len(self.seeds)),
            policy_info={"epoch": epoch},
        )

    def _folder(self, epoch: int) -> Path:
        return self.run_dir / FOLDER / f"epoch_{epoch:05d}"

    def _show_films(self, trainer: pl.Trainer, evaluation: Evaluation, epoch: int) -> None:
        """Give TensorBoard the films as GIFs, which it plays; its own `add_video` needs a package more."""
        films = {e.seed: self._folder(epoch) / e.video for e in evaluation.episodes if e.video is not None}
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            writer = logger.experiment._get_file_writer()  # pyright: ignore[reportPrivateUsage]
            for seed, film in films.items():
                value = Summary.Value(tag=f"rollout/seed_{seed}", image=as_gif(film))
                writer.add_summary(Summary(value=[value]), trainer.global_step)


def as_gif(film: Path) -> Summary.Image:
    """An mp4 as TensorBoard takes a moving picture."""
    with av.open(str(film)) as container:
        rate = float(container.streams.video[0].average_rate or 10)
        first, *others = (frame.to_image() for frame in container.decode(video=0))
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, duration=1000 / rate, loop=0)
    width, height = first.size
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content.getvalue())
