"""What the probes of `fibo attention probe` read of a table of clips: frozen class tokens and motion."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.probe.motion import motion_energy
from fibo_robot.encoders import ImageEncoder
from fibo_robot.files import replace_atomically
from fibo_robot.progress import track
from fibo_robot.video.datasets.table import ClipTable
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.training.sampling import ClipSampling


def frame_features(
    table: ClipTable, encoder: ImageEncoder, frames: int, cache: Path, weights_hash: str
) -> Tensor:
    """Class tokens `(clips, frames, D)` of evenly spaced frames; read from `cache` where it holds them.

    The cache is written every 25 clips, and an interrupted extraction goes on from there.

    Raises:
        BenchmarkError: the cache belongs to other clips, weights or settings, or is no such cache.
    """
    listing = "\n".join(f"{clip.name}\t{clip.label}\t{clip.split}" for clip in table.clips)
    key = f"{listing}\n{weights_hash}\n{encoder.image_size}\n{frames}"
    identity = {"features": hashlib.sha256(key.encode()).hexdigest()}
    done: list[Tensor] = list(_cached(cache, identity)) if cache.exists() else []
    encoder.eval()
    for number in track(range(len(done), len(table.clips)), "features"):
        reader = open_clip(table.clips[number].path, span=table.clips[number].span)
        pictures = torch.from_numpy(reader.read(ClipSampling(frames=frames).views(len(reader))[0]))
        pictures = transforms.resize(pictures.permute(0, 3, 1, 2), list(encoder.image_size), antialias=True)
        with torch.inference_mode():
            done.append(encoder(pictures).tokens[:, 0])
        if number % 25 == 24 or number == len(table.clips) - 1:
            with replace_atomically(cache) as temporary:
                save_file({"features": torch.stack(done)}, temporary, metadata=identity)
    return torch.stack(done)


def motion_features(table: ClipTable, frames: int) -> Tensor:
    """Motion energies `(clips, frames, 16)` of as many spans of each clip, in a grid of 4 x 4 cells."""
    energies = []
    for clip in track(table.clips, "motion"):
        reader = open_clip(clip.path, span=clip.span)
        energies.append(torch.from_numpy(motion_energy(reader.read(range(len(reader))), frames)))
    return torch.stack(energies).flatten(2)


def _cached(cache: Path, identity: dict[str, str]) -> Tensor:
    try:
        with safe_open(cache, framework="pt") as stored:
            if stored.metadata() == identity:
                return stored.get_tensor("features")
    except SafetensorError as error:
        raise BenchmarkError(f"{cache} holds no features ({error}): name another file.") from error
    raise BenchmarkError(f"{cache} holds features of other clips, weights or settings: name another file.")
