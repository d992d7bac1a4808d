"""The checkpoint directory: everything needed to rebuild and trust a model, nothing that runs code.

    config.yaml         the resolved training config
    model.safetensors   the weights, normaliser statistics and all
    meta.json           shape_meta or labels, versions, dataset hash, git revision, ...
    trainer.ckpt        optimiser and loop state; read only to resume training, with weights_only
    history.json        the metrics of every epoch, kept by the trainer beside these; loading needs none of it
    checkpoints/        where `trainer.keep_last` asks for them, the last ones as directories of their own

Each file is replaced atomically, trainer.ckpt last, so a kill at any moment leaves a loadable directory.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import fibo_robot
from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_bytes, write_json
from fibo_robot.hub.source import local_folder, name_of

FORMAT_VERSION = 1
CONFIG, MODEL, META, TRAINER = "config.yaml", "model.safetensors", "meta.json", "trainer.ckpt"
HISTORY = "history.json"
CHECKPOINTS = "checkpoints"
RECORDED_PACKAGES = ("torch", "timm", "lightning", "mujoco", "robosuite", "robomimic", "numpy")
# A model may act differently under another version of these: loading warns.
BEHAVIOUR_PACKAGES = ("mujoco", "robosuite")


class CheckpointError(FiboError):
    """A checkpoint directory is missing, incomplete, or not one of ours."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint directory holds, apart from the trainer's state.

    Attributes:
        directory: where its files lie.
        name: what results call it, wherever its folder is moved.
        config, meta: of config.yaml and meta.json.
        state_dict: the weights.
    """

    directory: Path
    name: str
    config: dict[str, Any]
    meta: dict[str, Any]
    state_dict: dict[str, Tensor]

    def describe(self) -> dict[str, Any]:
        """What results say of the model beside a digest of its weights, wherever its folder is moved.

        Its name, and what is known of its data and source; JSON-ready.
        """
        known = {key: self.meta[key] for key in ("dataset", "git_revision") if key in self.meta}
        return {"checkpoint": self.name, **known}

    def training(self) -> dict[str, Any]:
        """How the model came about: its `config`, `history`, one row of metrics an epoch, and its `cost`.

        The cost is empty where it is not known.

        Raises:
            CheckpointError: the history is damaged; a checkpoint without one has no rows.
        """
        path = self.directory / HISTORY
        try:
            history = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged ({error}). Remove it: only curves are lost.") from error
        return {"config": self.config, "history": history, "cost": self.meta.get("cost", {})}


def save_checkpoint(
    directory: Path | str,
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Write config, weights and meta to `directory`, adding versions and the git revision to meta."""
    directory = Path(directory)
    with replace_atomically(directory / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    write_json(
        directory / META,
        {
            "format_version": FORMAT_VERSION,
            "fibo_robot": fibo_robot.__version__,
            "versions": installed_versions(),
            "git_revision": _git_revision(),
            **meta,
        },
    )
    # Not by safetensors' own writer, whose error on a full disk names no file and is no OSError.
    content = save({key: value.detach().cpu().contiguous() for key, value in state_dict.items()})
    write_bytes(directory / MODEL, content)


def load_checkpoint(source: Path | str) -> Checkpoint:
    """Read a checkpoint directory, or `hf:owner/name` on the Hub, without executing anything from it.

    Raises:
        CheckpointError: the directory or one of its files is missing or unreadable.
        HubError: the Hub does not give it.
    """
    directory = local_folder(source)
    if not directory.is_dir():
        raise CheckpointError(
            f"No checkpoint directory at {directory}. Give the run directory `fibo train` wrote."
        )
    missing = [name for name in (CONFIG, META, MODEL) if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory} is not a complete checkpoint: {', '.join(missing)} missing. "
            "Give the run directory that `fibo train` wrote, or train again."
        )
    try:
        config = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        state_dict = load_file(directory / MODEL)
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{directory} holds a damaged file: {reason}. Restore it or train again."
        ) from error
    if not isinstance(config, dict) or not isinstance(meta, dict):
        raise CheckpointError(
            f"{directory}: {CONFIG} and {META} must hold mappings. Restore them or train again."
        )
    if meta.get("format_version", 0) > FORMAT_VERSION:
        raise CheckpointError(
            f"{directory} was written by fibo_robot {meta.get('fibo_robot')}, newer than this one "
            f"({fibo_robot.__version__}). Upgrade with: pip install -U fibo-robot"
        )
    return Checkpoint(directory, name_of(source, directory), config, meta, state_dict)


def state_digest(state_dict: Mapping[str, Any]) -> str:
    """blake2b of a state dict, by which results name the weights they are of, wherever these lie.

    It covers names, types, shapes and bytes of the tensors, by name; a module's extra state, which nothing of
    ours has, is left out.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state_dict.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def epoch_folder(directory: Path, epoch: int) -> Path:
    """Where a run keeps the checkpoint of an epoch, from 1, beside the latest."""
    return directory / CHECKPOINTS / f"epoch_{epoch:05d}"


def kept_checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints that a run has kept, in the order of their epochs."""
    return sorted(path.parent for path in (directory / CHECKPOINTS).glob(f"epoch_*/{MODEL}"))


def last_checkpoints(directory: Path, count: int) -> list[Path]:
    """The last so many checkpoints of a run, in the order of their epochs.

    Raises:
        CheckpointError: the run has kept fewer.
    """
    kept = kept_checkpoints(directory)
    if len(kept) < count:
        raise CheckpointError(
            f"{directory} has kept {len(kept)} checkpoints, not {count}. Train with "
            f"trainer.keep_last={count} or more, or ask for fewer."
        )
    return kept[-count:]


def version_differences(meta: Mapping[str, Any]) -> list[str]:
    """One plain sentence for each package whose other version may change what the model does."""
    trained, here = meta.get("versions", {}), installed_versions()
    return [
        f"The checkpoint was made with {name} {trained[name]}, this is {here.get(name, 'not installed')}: "
        "results may differ."
        for name in BEHAVIOUR_PACKAGES
        if name in trained and trained[name] != here.get(name)
    ]


def installed_versions() -> dict[str, str]:
    """Versions of the packages whose behaviour a result depends on; absent ones are left out."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str | None:
    """Revision of the source checkout, with `+changes` where it is not clean; None outside one."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(source)]
        revision = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.strip() + ("+changes" if changes.strip() else "")
