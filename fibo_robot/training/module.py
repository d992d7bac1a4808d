"""The LightningModule that policies and classifiers share: optimiser, schedule, reproducible steps."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import lightning.pytorch as pl
import timm.optim
import torch
from diffusers.optimization import SchedulerType, get_scheduler
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from fibo_robot.errors import FiboError, did_you_mean
from fibo_robot.training.sampler import derived_seed
from fibo_robot.training.sharding import shard

timm_optim: Any = timm.optim  # its public names stand in no __all__, so type checkers take them for private
PIECEWISE_CONSTANT = "piecewise_constant"
WITHOUT_WARMUP = ("constant", PIECEWISE_CONSTANT)


class OptimizerError(FiboError):
    """An optimiser's name or setting is not known."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and learning-rate schedule.

    Attributes:
        name: any optimiser that timm knows (`adamw`, `sgd`, `lamb`, ...).
        lr: peak learning rate.
        weight_decay: not applied to biases, norms and position embeddings.
        betas: for Adam-like optimisers; None leaves the optimiser's own.
        momentum: for SGD-like optimisers.
        warmup_steps: linear warm-up, of the schedules that have one.
        schedule: any schedule diffusers knows (`cosine`, `constant_with_warmup`, `piecewise_constant`, ...).
        milestones: shares of training, ascending in (0, 1), at each of which `piecewise_constant` divides the
            learning rate by ten.
        layer_decay: factor on the learning rate per layer below the head, as timm defines it; None is off.
    """

    name: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 1e-6
    betas: tuple[float, float] | None = None
    momentum: float = 0.9
    warmup_steps: int = 0
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        known = [str(name) for name in timm_optim.list_optimizers()]
        if self.name not in known:
            raise OptimizerError(
                f"There is no optimizer named '{self.name}'. {did_you_mean(self.name, known)}"
            )
        schedules = [schedule.value for schedule in SchedulerType]
        if self.schedule not in schedules:
            raise OptimizerError(
                f"There is no schedule named '{self.schedule}'. {did_you_mean(self.schedule, schedules)}"
            )
        if bool(self.milestones) != (self.schedule == PIECEWISE_CONSTANT):
            raise OptimizerError(
                f"milestones belong to the schedule {PIECEWISE_CONSTANT}, which needs them; "
                f"given are schedule {self.schedule} and milestones {list(self.milestones)}."
            )
        if self.warmup_steps and self.schedule in WITHOUT_WARMUP:
            raise OptimizerError(
                f"The schedule {self.schedule} has no warm-up: set warmup_steps to 0, or choose another, "
                "e.g. constant_with_warmup."
            )

    def _check_numbers(self) -> None:
        given = (self.lr, self.weight_decay, self.momentum, self.warmup_steps)
        if not all(0 <= value < math.inf for value in given):
            raise OptimizerError(
                "optimizer.lr, weight_decay, momentum and warmup_steps must be finite and not negative; "
                f"given are {self.lr}, {self.weight_decay}, {self.momentum} and {self.warmup_steps}."
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise OptimizerError(
                f"optimizer.layer_decay must lie in (0, 1], or be null for none, not {self.layer_decay}."
            )
        _check_list("betas", self.betas, "two numbers or more in [0, 1)", lambda given: len(given) >= 2)
        _check_list(
            "milestones",
            self.milestones,
            "ascending shares of training in (0, 1)",
            lambda given: all(0 < low < high for low, high in zip(given, [*given[1:], 1.0])),
        )


def _check_list(name: str, given: Any, wanted: str, fits: Callable[[Sequence[Any]], bool]) -> None:
    """Refuse what is no list of numbers below 1, or does not fit; None is no list that was given."""
    if given is None:
        return
    numbers = isinstance(given, Sequence) and all(isinstance(value, int | float) for value in given)
    if not numbers or not all(0 <= value < 1 for value in given) or not fits(given):
        raise OptimizerError(f"optimizer.{name} must be {wanted}, not {given}.")


Model = TypeVar("Model", bound=nn.Module)


class ModelModule(pl.LightningModule, Generic[Model]):
    """Base of all training modules.

    `self.model` is what the checkpoint directory keeps; anything else a subclass holds is for training.
    Subclasses write `training_step` and, if they validate, `validation_step`. Methods of the model that these
    call, beside the model itself, they name in `entrances`, so that sharded weights are gathered for them.
    """

    entrances: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Model, optimizer: OptimizerConfig, seed: int = 0) -> None:
        super().__init__()
        self.model: Model = model
        self.optimizer_config = optimizer
        self.seed = seed
        self._batch_seed = seed

    def checkpoint_meta(self) -> dict[str, Any]:
        """What must go into meta.json so that the model can be rebuilt; JSON-ready."""
        raise NotImplementedError

    def step_generator(self) -> torch.Generator:
        """A generator on the model's device that depends on seed, epoch, batch and rank alone."""
        return torch.Generator(device=self.device).manual_seed(self._batch_seed)

    def configure_model(self) -> None:
        """Share out the weights, under the strategy that does."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"], self.entrances)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._batch_seed = derived_seed(self.seed, self.trainer.current_epoch, batch_idx, self.global_rank)
        # Dropout draws from the global generator; seeding it by batch makes a resumed run repeat it.
        torch.manual_seed(self._batch_seed)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        config = self.optimizer_config
        options: dict[str, Any] = {} if config.betas is None else {"betas": tuple(config.betas)}
        # Else PyTorch goes through the parameters one by one on a CPU. In mixed precision Lightning clips no
        # gradients for a fused optimizer.
        if self.device.type == "cpu" and config.name in ("adam", "adamw"):
            options["fused"] = "mixed" not in self.trainer.precision
        optimizer = timm_optim.create_optimizer_v2(
            parameter_groups(self.model, config.weight_decay, config.layer_decay),
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **options,
        )
        for group in optimizer.param_groups:
            # timm leaves this product to its own schedulers.
            group["lr"] = config.lr * group.get("lr_scale", 1.0)
        steps = int(self.trainer.estimated_stepping_batches)
        if config.warmup_steps >= steps:
            rank_zero_warn(
                f"The learning rate rises for {config.warmup_steps} steps and training has {steps}: it ends "
                "before optimizer.lr is reached. Set optimizer.warmup_steps to less."
            )
        scheduler = get_scheduler(
            config.schedule,
            optimizer,
            step_rules=_step_rules(config.milestones, steps),
            num_warmup_steps=config.warmup_steps,
            num_training_steps=steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """A model's parameters in groups of one `weight_decay` and, with layer decay, one `lr_scale`.

    Biases, norms and what a part of the model names in timm's `no_weight_decay()` (position embeddings, class
    tokens) get no weight decay. With layer decay, the part of the model whose number from the head down is n
    learns at `layer_decay ** n` times the rate (BEiT, arXiv 2106.08254); the model's `group_matcher()`, as
    timm's models have one, says what the parts are.

    Raises:
        OptimizerError: layer decay is asked of a model without `group_matcher()`.
    """
    undecayed = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if callable(named := getattr(module, "no_weight_decay", None))
        for name in cast("Collection[str]", named())
    }
    if layer_decay is None:
        # By name: what stands third differs between versions of timm.
        return timm_optim.param_groups_weight_decay(model, weight_decay, no_weight_decay_list=undecayed)
    if not hasattr(model, "group_matcher"):
        raise OptimizerError(
            f"layer_decay needs a model whose layers stand in one row; {type(model).__name__} does not say "
            "what its layers are. Set optimizer.layer_decay=null."
        )
    return timm_optim.param_groups_layer_decay(
        model, weight_decay, no_weight_decay_list=undecayed, layer_decay=layer_decay
    )


def _step_rules(milestones: Sequence[float], steps: int) -> str | None:
    """diffusers' form of a learning rate that is divided by ten at these shares of all steps."""
    if not milestones:
        return None
    rules = [f"{0.1**i}:{round(share * steps)}" for i, share in enumerate(milestones)]
    return ",".join([*rules, str(0.1 ** len(milestones))])
