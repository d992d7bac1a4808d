"""`fibo attention probe`: attentions compared on features of frames, cross-validated over a table's folds.

A probe is a small transformer over the frames of a clip with one of our attentions, and a linear layer on all
its outputs. It reads appearance (class tokens of a pretrained image encoder that is not trained), motion
(:func:`fibo_robot.benchmarks.probe.motion.motion_energy`) or both. Probes differ in attention and input
alone: recipe, seeds, order of clips and folds are the same. Two controls stand beside them: a probe without
transformer, and every probe again on clips whose frames are in random order: one that does better in order
has used the order. Nothing here measures speed.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fibo_robot.attention import AttentionConfig, create_attention
from fibo_robot.attention.swap import angular_cores
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.progress import track
from fibo_robot.training.callbacks.castling import branch_scale_at
from fibo_robot.training.sampler import derived_seed
from fibo_robot.video.datasets.table import ClipTable


@dataclass(frozen=True)
class ProbeRecipe:
    """How every probe is built and trained.

    Attributes:
        components: features of a frame with more numbers than this are cut to so many principal components.
        width, depth, num_heads: of the transformer.
        dropout: on its input, inside its blocks and before the classifier.
        epochs, batch_size, lr, weight_decay: of AdamW with a one-cycle schedule.
        label_smoothing: share of a target that is spread over all classes.
        mixup_alpha: of mixup's Beta distribution.
        castling_end: share of training at which Castling's branch has faded.
    """

    components: int = 32
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    dropout: float = 0.3
    epochs: int = 60
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    mixup_alpha: float = 1.0
    castling_end: float = 0.75


@dataclass(frozen=True)
class ProbeRow:
    """One probe on the fold it was not trained on.

    Attributes:
        inputs: what it read, such as `motion`.
        attention: its name; `none` for the probe without transformer.
        shuffled: whether each clip's frames were in random order, in training and testing.
        fold: name of the fold it was tested on.
        seed: of its weights, its batches and the random order.
        correct: clips of that fold that it labelled rightly.
        clips: clips of that fold.
    """

    inputs: str
    attention: str
    shuffled: bool
    fold: str
    seed: int
    correct: int
    clips: int


class AttentiveProbe(nn.Module):
    """A transformer over frames: features `(B, T, F)` in, `(B, classes)` scores out.

    Args:
        recipe: sizes and dropout.
        attention: what its blocks attend with; None for no blocks.
        shape: T frames and F features of each.
        classes: number of classes.
    """

    def __init__(
        self, recipe: ProbeRecipe, attention: AttentionConfig | None, shape: tuple[int, int], classes: int
    ) -> None:
        super().__init__()
        frames, features = shape
        width, heads, dropout = recipe.width, recipe.num_heads, recipe.dropout
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(features, width)
        self.time = nn.Parameter(0.02 * torch.randn(frames, width))
        self.blocks = nn.Sequential()
        for layer in range(recipe.depth):
            if attention is None:
                break
            block = Block(width, heads, mlp_ratio=2.0, proj_drop=dropout)
            block.attn = create_attention(
                attention,
                width,
                heads,
                layer_index=layer,
                num_prefix_tokens=0,
                grid=(frames, 1, 1),
                proj_drop=dropout,
            )
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(frames * width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Scores before the softmax."""
        tokens = self.blocks(self.embed(self.dropout(features)) + self.time)
        return self.head(self.dropout(self.norm(tokens)).flatten(1))


def cross_validate(
    inputs: Mapping[str, Sequence[Tensor]],
    table: ClipTable,
    attentions: Sequence[str],
    seeds: Sequence[int],
    recipe: ProbeRecipe,
    done: Collection[ProbeRow] = (),
) -> Iterator[ProbeRow]:
    """Train and test a probe per input, attention, fold and seed, with frames in order and in random order.

    Rows come as they are made.

    Args:
        inputs: by name, features `(clips, T, F)` in the table's order; several are set side by side.
        table: says each clip's class and fold.
        attentions: registered names, or `none`.
        seeds: seeds of each probe.
        recipe: what all share.
        done: rows of an interrupted run, which are not made again.

    Raises:
        BenchmarkError: the table has fewer than two folds.
        AttentionError: for an unknown attention.
    """
    configs = {name: None if name == "none" else AttentionConfig.parse(name) for name in attentions}
    folds = sorted({clip.split for clip in table.clips})
    if len(folds) < 2:
        raise BenchmarkError(
            f"{table.description} has fewer than two folds: name the column that tells them."
        )
    targets = torch.tensor([table.labels.index(clip.label) for clip in table.clips])
    tested = {fold: torch.tensor([clip.split == fold for clip in table.clips]) for fold in folds}
    prepared = {
        (name, fold): torch.cat([_prepared(part, ~tested[fold], recipe.components) for part in parts], dim=2)
        for name, parts in inputs.items()
        for fold in folds
    }
    made = {(row.inputs, row.attention, row.shuffled, row.fold, row.seed) for row in done}
    jobs = [
        (name, attention, shuffled, fold, seed)
        for name in inputs
        for fold in folds
        for seed in seeds
        for shuffled in (False, True)
        for attention in configs
    ]
    for job in track([job for job in jobs if job not in made], "probes"):
        name, attention, shuffled, fold, seed = job
        features, test = prepared[name, fold], tested[fold]
        if shuffled:
            order = torch.Generator().manual_seed(derived_seed(seed, 1))
            features = torch.stack([clip[torch.randperm(len(clip), generator=order)] for clip in features])
        probe = train_probe(
            features[~test], targets[~test], configs[attention], len(table.labels), seed, recipe
        )
        with torch.no_grad():
            hits = probe(features[test]).argmax(1) == targets[test]
        yield ProbeRow(*job, correct=int(hits.sum()), clips=len(hits))


def train_probe(
    inputs: Tensor,
    targets: Tensor,
    attention: AttentionConfig | None,
    classes: int,
    seed: int,
    recipe: ProbeRecipe,
) -> AttentiveProbe:
    """Fit a probe to features `(clips, T, F)` and classes `(clips,)`; returned in eval mode."""
    torch.manual_seed(derived_seed(seed))
    probe = AttentiveProbe(recipe, attention, (inputs.shape[1], inputs.shape[2]), classes)
    optimizer = torch.optim.AdamW(probe.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = math.ceil(len(inputs) / recipe.batch_size)
    steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps)
    wanted = F.one_hot(targets, classes).to(inputs.dtype)
    mixup = torch.distributions.Beta(recipe.mixup_alpha, recipe.mixup_alpha)
    batches: tuple[Tensor, ...] = ()
    for step in range(steps):
        if step % per_epoch == 0:
            batches = torch.randperm(len(inputs)).split(recipe.batch_size)
        for _, core in angular_cores(probe):
            core.set_branch_scale(branch_scale_at(step / steps, recipe.castling_end))
        batch = batches[step % per_epoch]
        partners, share = batch[torch.randperm(len(batch))], float(mixup.sample())
        loss = F.cross_entropy(
            probe(torch.lerp(inputs[partners], inputs[batch], share)),
            torch.lerp(wanted[partners], wanted[batch], share),
            label_smoothing=recipe.label_smoothing,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def _prepared(features: Tensor, training: Tensor, components: int) -> Tensor:
    """Features with mean 0 and variance 1 on the frames of the training clips.

    More than `components` of them are replaced by as many principal components of those frames.
    """
    flat = features[training].flatten(0, 1).double()
    centred = features.double() - flat.mean(0)
    if features.shape[2] <= components:
        return (centred / flat.std(0)).float()
    variances, axes = torch.linalg.eigh(torch.cov(flat.T))
    return (centred @ (axes[:, -components:] / variances[-components:].sqrt())).float()
