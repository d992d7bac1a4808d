"""Write stand-in wheels for packages that others require, nothing here uses, and that spoil an installation.

    python scripts/stand_ins.py FOLDER [NAME ...]

pip cannot be told to leave a dependency of a dependency out. A stand-in carries the name and a version,
marked `+standin`, so that pip is satisfied; importing it says what was left out and how to install the real
package. Uses the standard library only, so that it runs before anything is installed.
"""

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StandIn:
    """A package to leave out.

    Attributes:
        name: as on PyPI, and as imported.
        version: the version of the real package that it stands for.
        reason: why the real one is not installed, one sentence.
        lost: what does not work without it, one sentence.
    """

    name: str
    version: str
    reason: str
    lost: str


STAND_INS = (
    StandIn(
        "egl_probe",
        "1.0.2",
        "It is compiled with cmake and make.",
        "robomimic's own environments cannot choose a GPU to render on (fibo_robot renders by itself).",
    ),
    StandIn(
        "evdev",
        "2.0.0",
        "It is compiled with gcc and kernel headers.",
        "pynput, which robosuite's keyboard and space mouse use, needs an X display.",
    ),
    StandIn(
        "mink",
        "0.0.5",
        "Its only version that robosuite 1.5.2 accepts demands numpy below 2.",
        "robosuite's whole-body control of humanoids is missing.",
    ),
)

_MODULE = '''"""A stand-in: the real package was left out when fibo_robot was installed."""

raise ImportError({message!r})
'''
_METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
Summary: {summary}

{message}
"""
_WHEEL = "Wheel-Version: 1.0\nGenerator: fibo_robot stand_ins.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_stand_in(stand_in: StandIn, folder: Path) -> Path:
    """Write one wheel into `folder` and return its path; the same input gives the same bytes."""
    version = f"{stand_in.version}+standin"
    message = (
        f"{stand_in.name} is a stand-in without code. {stand_in.reason} Without it, {stand_in.lost} "
        f"To have it: pip install --no-deps --force-reinstall {stand_in.name}=={stand_in.version}"
    )
    info = f"{stand_in.name}-{version}.dist-info"
    files = {
        f"{stand_in.name}/__init__.py": _MODULE.format(message=message),
        f"{info}/METADATA": _METADATA.format(
            name=stand_in.name, version=version, summary=f"Stands in for {stand_in.name}", message=message
        ),
        f"{info}/WHEEL": _WHEEL,
    }
    record = [*files, f"{info}/RECORD"]
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in record)
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{stand_in.name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return wheel


def main(arguments: list[str]) -> None:
    """Write the named stand-ins, or all."""
    if not arguments:
        sys.exit("usage: python scripts/stand_ins.py FOLDER [NAME ...]")
    folder, *names = arguments
    unknown = set(names) - {stand_in.name for stand_in in STAND_INS}
    if unknown:
        sys.exit(f"no stand-in is known for {', '.join(sorted(unknown))}")
    for stand_in in STAND_INS:
        if not names or stand_in.name in names:
            print(write_stand_in(stand_in, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
