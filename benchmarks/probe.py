"""`fibo bench probe`: attentions compared on frozen image features, cross-validated over a table's folds.

Frames go once through a pretrained image encoder that is not trained; an attentive probe learns from their
class tokens: a small transformer over time with one of our attentions, then a linear layer. Probes differ
in their attention alone: recipe, seeds, order of clips and folds are the same. The control sees the frames of
each clip in random order: a probe that beats it has used their order. Nothing here measures speed.
"""

import hashlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from fibo_robot.attention import AttentionConfig, create_attention
from fibo_robot.attention.swap import angular_cores
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.encoders import ImageEncoder
from fibo_robot.files import replace_atomically
from fibo_robot.training.castling import branch_scale_at
from fibo_robot.training.sampler import derived_seed
from fibo_robot.video.decode import VideoReader
from fibo_robot.video.sampling import ClipSampling
from fibo_robot.video.sources import ClipTable


@dataclass(frozen=True)
class ProbeRecipe:
    """How every probe is built and trained.

    Attributes:
        components: principal components of the training clips' features that the probe gets, whitened.
        width, depth, num_heads: of the transformer.
        dropout: on its input, inside its blocks and before the classifier.
        epochs, batch_size, lr, weight_decay: of AdamW with a one-cycle schedule.
        label_smoothing: share of a target that is spread over all classes.
        mixup_alpha: of mixup's Beta distribution.
        castling_end: share of training at which Castling's branch has faded.
    """

    components: int = 64
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    dropout: float = 0.3
    epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.4
    castling_end: float = 0.75


@dataclass(frozen=True)
class ProbeRow:
    """One probe on the fold it was not trained on.

    Attributes:
        case: the attention's name.
        shuffled: whether each clip's frames were in random order, in training and testing.
        fold: name of the fold it was tested on.
        seed: of its weights, its batches and the random order.
        correct: clips of that fold that it labelled rightly.
        clips: clips of that fold.
    """

    case: str
    shuffled: bool
    fold: str
    seed: int
    correct: int
    clips: int


@dataclass(frozen=True)
class ProbeSummary:
    """Accuracy of one attention: mean and standard deviation over folds of the mean over seeds."""

    case: str
    shuffled: bool
    mean: float
    spread: float


class AttentiveProbe(nn.Module):
    """A transformer over frames: features `(B, T, components)` in, `(B, classes)` scores out."""

    def __init__(self, recipe: ProbeRecipe, attention: AttentionConfig, frames: int, classes: int) -> None:
        super().__init__()
        width, heads, dropout = recipe.width, recipe.num_heads, recipe.dropout
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(recipe.components, width)
        self.time = nn.Parameter(0.02 * torch.randn(frames, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential()
        for layer in range(recipe.depth):
            block = Block(width, heads, mlp_ratio=2.0, proj_drop=dropout)
            block.attn = create_attention(
                attention.to_dict(),
                width,
                heads,
                layer_index=layer,
                num_prefix_tokens=1,
                grid=(frames, 1, 1),
                proj_drop=dropout,
            )
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Scores before the softmax."""
        tokens = self.embed(self.dropout(features)) + self.time
        tokens = self.blocks(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1))
        return self.head(self.dropout(self.norm(tokens).mean(1)))


def frame_features(
    table: ClipTable, encoder: ImageEncoder, frames: int, cache: Path, weights_hash: str
) -> Tensor:
    """Class tokens `(clips, frames, D)` of evenly spaced frames; read from `cache` where it holds them.

    The cache is written every 25 clips, and an interrupted extraction goes on from there.

    Raises:
        BenchmarkError: the cache belongs to other clips, weights or settings, or is no such cache.
    """
    listing = "\n".join(f"{clip.path}\t{clip.label}\t{clip.split}" for clip in table.clips)
    key = f"{listing}\n{weights_hash}\n{encoder.image_size}\n{frames}"
    identity = {"features": hashlib.sha256(key.encode()).hexdigest()}
    done: list[Tensor] = list(_cached(cache, identity)) if cache.exists() else []
    encoder.eval()
    for number in track(range(len(done), len(table.clips)), "features", disable=None, transient=True):
        reader = VideoReader(table.clips[number].path)
        pictures = torch.from_numpy(reader.read(ClipSampling(frames=frames).views(len(reader))[0]))
        pictures = transforms.resize(pictures.permute(0, 3, 1, 2), list(encoder.image_size), antialias=True)
        with torch.inference_mode():
            done.append(encoder(pictures).tokens[:, 0])
        if number % 25 == 24 or number == len(table.clips) - 1:
            with replace_atomically(cache) as temporary:
                save_file({"features": torch.stack(done)}, temporary, metadata=identity)
    return torch.stack(done)


def cross_validate(
    features: Tensor,
    table: ClipTable,
    attentions: Sequence[str],
    seeds: Sequence[int],
    recipe: ProbeRecipe,
) -> Iterator[ProbeRow]:
    """Train and test a probe per attention, fold and seed, with frames in order and in random order.

    Rows come as they are made.

    Args:
        features: `(clips, T, D)`, in the table's order.
        table: says each clip's class and fold.
        attentions: registered names.
        seeds: seeds of each probe.
        recipe: what all share.

    Raises:
        BenchmarkError: the table has fewer than two folds.
        AttentionError: for an unknown attention.
    """
    configs = {name: AttentionConfig.parse(name) for name in attentions}
    folds = sorted({clip.split for clip in table.clips})
    if len(folds) < 2:
        raise BenchmarkError(
            f"{table.description} has fewer than two folds: name the column that tells them."
        )
    targets = torch.tensor([table.labels.index(clip.label) for clip in table.clips])
    tested = {fold: torch.tensor([clip.split == fold for clip in table.clips]) for fold in folds}
    whitened = {fold: _whitened(features, ~tested[fold], recipe.components) for fold in folds}
    jobs = [
        (name, shuffled, fold, seed)
        for fold in folds
        for seed in seeds
        for shuffled in (False, True)
        for name in configs
    ]
    for name, shuffled, fold, seed in track(jobs, "probes", disable=None, transient=True):
        inputs, test = whitened[fold], tested[fold]
        if shuffled:
            order = torch.Generator().manual_seed(derived_seed(seed, 1))
            inputs = torch.stack([clip[torch.randperm(len(clip), generator=order)] for clip in inputs])
        probe = train_probe(inputs[~test], targets[~test], configs[name], len(table.labels), seed, recipe)
        with torch.no_grad():
            hits = probe(inputs[test]).argmax(1) == targets[test]
        yield ProbeRow(name, shuffled, fold, seed, int(hits.sum()), len(hits))


def train_probe(
    inputs: Tensor, targets: Tensor, attention: AttentionConfig, classes: int, seed: int, recipe: ProbeRecipe
) -> AttentiveProbe:
    """Fit a probe to features `(clips, T, components)` and classes `(clips,)`; returned in eval mode."""
    torch.manual_seed(derived_seed(seed))
    probe = AttentiveProbe(recipe, attention, inputs.shape[1], classes)
    optimizer = torch.optim.AdamW(probe.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = math.ceil(len(inputs) / recipe.batch_size)
    steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps)
    wanted = F.one_hot(targets, classes).to(inputs.dtype)
    mixup = torch.distributions.Beta(recipe.mixup_alpha, recipe.mixup_alpha)
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


def summarise(rows: Sequence[ProbeRow]) -> list[ProbeSummary]:
    """Mean and standard deviation over folds, per attention and order, in the order of the rows."""
    summaries = []
    for case, shuffled in dict.fromkeys((row.case, row.shuffled) for row in rows):
        own = [row for row in rows if (row.case, row.shuffled) == (case, shuffled)]
        folds = [
            statistics.mean(row.correct / row.clips for row in own if row.fold == fold)
            for fold in sorted({row.fold for row in own})
        ]
        summaries.append(ProbeSummary(case, shuffled, statistics.mean(folds), statistics.stdev(folds)))
    return summaries


def _whitened(features: Tensor, training: Tensor, components: int) -> Tensor:
    """Principal components of the training clips' frames, each scaled to variance 1 on them."""
    flat = features[training].flatten(0, 1).double()
    variances, axes = torch.linalg.eigh(torch.cov(flat.T))
    scaled = axes[:, -components:] / variances[-components:].sqrt()
    return ((features.double() - flat.mean(0)) @ scaled).float()


def _cached(cache: Path, identity: dict[str, str]) -> Tensor:
    try:
        with safe_open(cache, framework="pt") as stored:
            if stored.metadata() == identity:
                return stored.get_tensor("features")
    except SafetensorError as error:
        raise BenchmarkError(f"{cache} holds no features ({error}): name another file.") from error
    raise BenchmarkError(f"{cache} holds features of other clips, weights or settings: name another file.")
