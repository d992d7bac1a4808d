"""What the study trains: variants, stages, and the order of the runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.errors import did_you_mean

TUNING_SEED = 1000  # of the runs that choose a learning rate; those that are tested have others


@dataclass(frozen=True)
class Variant:
    """An attention as the study trains it.

    Attributes:
        name: in tables and folders.
        overrides: of `experiment=cifar10`.
        controls_for: the variant that this one is a control for; None where it is none.
    """

    name: str
    overrides: tuple[str, ...]
    controls_for: str | None = None


def _fibottention(rule: str) -> tuple[str, ...]:
    return ("attention=fibottention", f"attention.rule={rule}")


DENSE, FIBOTTENTION, CASTLING = "dense", "fibottention", "castling"

# In the order of what a cut-off study should know first.
VARIANTS = (
    Variant(DENSE, ("attention=softmax",)),
    Variant(FIBOTTENTION, _fibottention("paper")),
    Variant("random", _fibottention("random"), FIBOTTENTION),
    Variant("consecutive", _fibottention("consecutive"), FIBOTTENTION),
    Variant(CASTLING, ("attention=castling",)),
    Variant("castling, no branch", ("attention=castling", "trainer.castling_end=0"), CASTLING),
    Variant("fibottention, modified", _fibottention("modified")),
    Variant("neighbourhood", ("attention=neighbourhood",), FIBOTTENTION),
    Variant("same_heads", _fibottention("same_heads"), FIBOTTENTION),
    Variant("same_layers", _fibottention("same_layers"), FIBOTTENTION),
    Variant("geometric", _fibottention("geometric"), FIBOTTENTION),
    Variant("random_far", _fibottention("random_far"), FIBOTTENTION),
    Variant("castling, threshold 4", ("attention=castling", "attention.threshold=4"), CASTLING),
)
GROUPS = (slice(0, 4), slice(4, 6), slice(6, None))  # of these, one is finished before the next is begun


@dataclass(frozen=True)
class Stage:
    """How large the study is.

    Attributes:
        name: on the command line.
        train_pictures: how many; the validation pictures are others of the training part.
        epochs, steps, batch_size: every run trains `epochs` times `steps` steps of `batch_size` pictures.
        learning_rates: of which each variant gets the one that is best on the validation pictures.
        seeds: of the runs that are tested.
        overrides: what else differs from `experiment=cifar10`.
    """

    name: str
    train_pictures: int
    epochs: int
    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    overrides: tuple[str, ...] = ()


# A ViT of 4 layers, 128 wide, 4 heads: 64 patches of 4 pixels and a class token.
_MICRO = ("encoder.name=vit_micro",)
STAGES = {
    stage.name: stage
    for stage in (
        Stage("small", 1000, 20, 20, 50, (5e-4, 2e-3), overrides=_MICRO),
        # The same ViT on 256 patches of 2 pixels, where every head of the paper rule has several offsets.
        Stage("long", 1000, 20, 20, 50, (5e-4, 2e-3), overrides=(*_MICRO, "encoder.patch_size=2")),
        Stage("1000", 1000, 40, 16, 64, (5e-4, 1e-3, 2e-3)),
        Stage("5000", 5000, 40, 78, 64, (5e-4, 1e-3, 2e-3)),
        Stage("48000", 48000, 40, 375, 128, (5e-4, 1e-3, 2e-3)),
    )
}


@dataclass(frozen=True)
class Run:
    """One training run; `learning_rate` is None where it is still to be chosen."""

    variant: Variant
    seed: int
    learning_rate: float | None

    @property
    def tunes(self) -> bool:
        """Whether it chooses a learning rate, and is not tested."""
        return self.seed == TUNING_SEED

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        variant = self.variant.name.replace(", ", "-").replace(" ", "-")
        return f"{variant}-lr{self.learning_rate:g}" if self.tunes else f"{variant}-seed{self.seed}"


def order(stage: Stage, variants: Sequence[Variant]) -> list[Run]:
    """All runs of a stage: learning rates before the runs that use them, seed by seed over the variants."""
    runs = []
    for some in (variants[group] for group in GROUPS):
        runs += [Run(variant, TUNING_SEED, rate) for variant in some for rate in stage.learning_rates]
        runs += [Run(variant, seed, None) for seed in stage.seeds for variant in some]
    return runs


def overrides(stage: Stage, run: Run) -> list[str]:
    """Of `fibo train`, for a run with a learning rate."""
    return [
        "experiment=cifar10",
        *stage.overrides,
        *run.variant.overrides,
        f"seed={run.seed}",
        f"optimizer.lr={run.learning_rate}",
        f"optimizer.warmup_steps={stage.epochs * stage.steps // 10}",
        f"data.train_pictures={stage.train_pictures}",
        "data.valid_share=0.04",
        f"data.batch_size={stage.batch_size}",
        f"data.steps_per_epoch={stage.steps}",
        f"trainer.max_epochs={stage.epochs}",
        f"trainer.check_val_every_n_epoch={stage.epochs}",
        "logger=none",
    ]


def find_stage(name: str) -> Stage:
    """The stage of this name.

    Raises:
        BenchmarkError: there is none.
    """
    if name not in STAGES:
        raise BenchmarkError(f"There is no stage named '{name}'. {did_you_mean(name, STAGES)}")
    return STAGES[name]
