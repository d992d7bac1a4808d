"""Is this machine ready? Each question is answered by trying, and each "no" comes with what to do.

What could crash or be half-installed (torch, the simulator, the video decoders) is tried in a process of its
own, so a broken library becomes one line of the answer. Nothing here knows of tasks: `fibo doctor` adds the
rendering back ends.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

# Importing torch from a cold disk on a busy machine has taken over a minute.
TIMEOUT_SECONDS = 300.0
TIMED_OUT = f"gave no answer within {TIMEOUT_SECONDS:.0f} s"


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        group: the heading it stands under.
        name: what was tried.
        ok: it works.
        detail: the version or device found, or what went wrong.
        fix: what to do, where it does not work.
        needed: nothing works without it; otherwise it only adds something.
    """

    group: str
    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = True


@dataclass(frozen=True)
class KnownVersion:
    """Versions of a package that are known to work, why others may not, and what to install instead.

    With an `extra`, the package may be missing: only what that extra is for needs it.
    """

    requirement: str
    reason: str
    install: str
    extra: str = ""


KNOWN_VERSIONS = (
    KnownVersion(
        "robosuite==1.5.2",
        "tasks, rewards and controllers differ between versions",
        "robosuite==1.5.2",
        "sim",
    ),
    KnownVersion(
        "mujoco>=3.3.0,<3.10",
        "robosuite 1.5.2 cannot reset a task with 3.10 or later",
        "mujoco==3.9.0",
        "sim",
    ),
    KnownVersion("numpy>=1.26,<3", "tested with 1.26 and 2.x", "numpy>=1.26,<3"),
    KnownVersion("gymnasium>=1.4,<1.5", "the environments follow gymnasium 1.4", "gymnasium==1.4.0"),
    KnownVersion("robomimic==0.3.0", "its datasets and configs change between versions", "robomimic==0.3.0"),
    KnownVersion("torch>=2.11", "older versions miss what training and attention use", "torch>=2.11"),
)
# What `import` needs from the system: a line of the loader's complaint, and Debian's package that holds it.
SYSTEM_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libEGL.so.1": "libegl1 libgl1-mesa-dri",
}
VIDEO_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")


def run_checks() -> list[Check]:
    """Every check of this module, in the order to be shown; takes some seconds."""
    with ThreadPoolExecutor() as pool:
        groups = [pool.submit(f) for f in (check_versions, check_imports, check_decoders, check_devices)]
        return [check for group in groups for check in group.result()]


def check_versions() -> list[Check]:
    """The installed versions against those known to work together, and torchvision against torch."""
    checks = []
    for known in KNOWN_VERSIONS:
        requirement = Requirement(known.requirement)
        found = _installed(requirement.name)
        if found is None and known.extra:
            fix = f"pip install 'fibo-robot[{known.extra}]'"
            checks.append(Check("versions", requirement.name, False, "not installed", fix, needed=False))
            continue
        ok = found is not None and requirement.specifier.contains(found, prereleases=True)
        fix = "" if ok else f"pip install '{known.install}' ({known.reason})"
        checks.append(Check("versions", requirement.name, ok, str(found or "not installed"), fix))
    return [*checks, _check_torchvision_matches()]


def _check_torchvision_matches() -> Check:
    vision, torch = _installed("torchvision"), _installed("torch")
    if vision is None or torch is None:
        return Check("versions", "torchvision", False, str(vision or "not installed"), "run make setup again")
    wants = [Requirement(text) for text in metadata.requires("torchvision") or []]
    specifier = next(want.specifier for want in wants if want.name == "torch")
    # A build for CUDA 13 calls itself 2.14.1+cu130; the local part says nothing about the match.
    ok = specifier.contains(torch.public, prereleases=True)
    detail = str(vision) if ok else f"{vision} wants torch{specifier}, found {torch}"
    fix = "" if ok else "install both in one go: pip install --upgrade torch torchvision"
    return Check("versions", "torchvision", ok, detail, fix)


def check_imports() -> list[Check]:
    """Whether the packages with compiled parts can be imported at all."""
    with ThreadPoolExecutor() as pool:
        optional = [name for name in ("robosuite",) if _installed(name)]
        return list(pool.map(check_import, ("torchvision", "robomimic", *optional)))


def check_import(name: str) -> Check:
    """Whether `import name` works, and which Debian package is missing where a system library is."""
    # Rendering is another question: without this, robosuite would open a GL library while it is imported.
    ok, output = _run("-c", f"import {name}", MUJOCO_GL="disable")
    if ok:
        return Check("imports", name, True, "imports")
    packages = [package for library, package in SYSTEM_LIBRARIES.items() if library in output]
    fix = f"apt-get install {' '.join(packages)}" if packages else "run make setup again"
    return Check("imports", name, False, output, _cure(output, fix))


def check_decoders() -> list[Check]:
    """Write a tiny H.264 clip with PyAV, read it with decord and with PyAV, and ask PyAV for other codecs."""
    ok, output = _run("-m", "fibo_robot.doctor", "decoders")
    if not ok:
        fix = "pip install --force-reinstall decord==0.6.0 av"
        return [Check("video", "decoders", False, output, _cure(output, fix))]
    return [Check(**answer) for answer in json.loads(output)]


def check_devices() -> list[Check]:
    """CPU cores, memory, CUDA devices and the compiler for GPU kernels."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = Check(
        "devices", "CPU", True, f"{cores} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    ok, output = _run("-m", "fibo_robot.doctor", "devices")
    if not ok:
        return [machine, Check("devices", "torch", False, output, _cure(output, "run make setup again"))]
    return [machine, *(Check(**answer) for answer in json.loads(output))]


def check_warp_installed(fix: str) -> Check:
    """Whether MuJoCo Warp is there, by its version alone: the first picture compiles for a minute or more."""
    found = {name: _installed(name) for name in ("mujoco-warp", "warp-lang")}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return Check("rendering", "warp", False, f"{', '.join(missing)} not installed", fix, needed=False)
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    detail = f"{versions} installed, not tried: fibo doctor --full draws with it"
    return Check("rendering", "warp", True, detail, needed=False)


def _installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _cure(output: str, fix: str) -> str:
    return "run fibo doctor again when the machine is less busy" if output == TIMED_OUT else fix


def _run(*arguments: str, **environment: str) -> tuple[bool, str]:
    """Run this Python with `arguments`: whether it exited with 0, and the last line it printed."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False, TIMED_OUT
    if done.returncode < 0:
        return False, f"crashed (signal {-done.returncode})"
    text = done.stdout if done.returncode == 0 else done.stderr
    return done.returncode == 0, (text.strip().splitlines() or [""])[-1]


# --- what the child processes do ---------------------------------------------------------------------------


def _try_decoders() -> list[dict[str, Any]]:
    import av
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        brightness = [40, 120, 200]
        with av.open(str(clip), "w") as container:
            stream = container.add_stream("libx264", rate=10, pix_fmt="yuv420p")
            stream.width = stream.height = 64
            for value in brightness:
                picture = np.full((64, 64, 3), value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        readers = {"decord": _read_with_decord, "PyAV": _read_with_pyav}
        answers = [_answer(name, read, clip, brightness) for name, read in readers.items()]
    missing = [name for name in VIDEO_CODECS if name not in av.codecs_available]
    return [
        *answers,
        {
            "group": "video",
            "name": "PyAV codecs",
            "ok": not missing,
            "detail": f"without {', '.join(missing)}" if missing else ", ".join(VIDEO_CODECS),
            "fix": "pip install --force-reinstall av (its wheels bring FFmpeg)" if missing else "",
            "needed": False,
        },
    ]


def _answer(name: str, read: Any, clip: Path, brightness: list[int]) -> dict[str, Any]:
    package = {"decord": "decord", "PyAV": "av"}[name]
    try:
        means = [float(frame.mean()) for frame in read(clip)]
    # Whatever a decoder raises is the answer to the question.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        close = len(means) == len(brightness) and all(abs(a - b) < 4 for a, b in zip(means, brightness))
        problem = "" if close else f"decoded a clip of {brightness} as {means}"
    return {
        "group": "video",
        "name": name,
        "ok": not problem,
        "detail": problem or metadata.version(package),
        "fix": f"pip install --force-reinstall {package}" if problem else "",
    }


def _read_with_decord(clip: Path) -> list[Any]:
    import decord

    reader = decord.VideoReader(str(clip), num_threads=1)
    return list(reader.get_batch(range(len(reader))).asnumpy())


def _read_with_pyav(clip: Path) -> list[Any]:
    import av

    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _try_devices() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        detail = "none; training, rendering and kernels run on the CPU"
        return [{"group": "devices", "name": "CUDA", "ok": True, "detail": detail, "needed": False}]
    answers = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        works = float(torch.ones(8, device=f"cuda:{index}").sum()) == 8.0
        answers.append(
            {
                "group": "devices",
                "name": f"cuda:{index}",
                "ok": works,
                "detail": f"{device.name}, {device.total_memory / 2**30:.0f} GiB, "
                f"capability {device.major}.{device.minor}, CUDA {torch.version.cuda}",
                "fix": "" if works else "check the driver with nvidia-smi",
            }
        )
    triton = _installed("triton")
    answers.append(
        {
            "group": "devices",
            "name": "triton",
            "ok": triton is not None,
            "detail": str(triton or "not installed: the GPU kernels are replaced by slower ones"),
            "fix": "" if triton else "pip install triton",
            "needed": False,
        }
    )
    return answers


if __name__ == "__main__":
    print(json.dumps({"decoders": _try_decoders, "devices": _try_devices}[sys.argv[1]]()))
