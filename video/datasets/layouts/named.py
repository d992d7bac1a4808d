"""Data sets whose file names tell class, subject and camera: Toyota Smarthome, NTU RGB+D, NW-UCLA."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fibo_robot.video.datasets.files import VIDEO_SUFFIXES, clips_below
from fibo_robot.video.datasets.layouts.class_names import NTU_CLASSES, NW_UCLA_CLASSES
from fibo_robot.video.datasets.table import ClipTable, ClipTableError, LabelledClip, choose_protocol

Codes = Mapping[str, str]
Protocol = Callable[[Codes], str]
_RECOGNISED = 0.5  # share of files named in a data set's way above which the rest is a mistake

# Das et al., "Toyota Smarthome: Real-World Activities of Daily Living", ICCV 2019, section 3 ("Evaluation").
_SMARTHOME_TRAIN_SUBJECTS = {3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25}
# Shahroudy et al., "NTU RGB+D", arXiv 1604.02808, section 3.2.
_NTU60_TRAIN_SUBJECTS = {1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38}
# Liu et al., "NTU RGB+D 120", arXiv 1905.04757, section 3 (the benchmark evaluations).
_NTU120_TRAIN_SUBJECTS = _NTU60_TRAIN_SUBJECTS | {
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89),
    *(91, 92, 93, 94, 95, 97, 98, 100, 103),
}


@dataclass(frozen=True)
class NamingScheme:
    """How one data set names its clips, and how its protocols divide them.

    Attributes:
        name: the data set's.
        example: a clip's name.
        patterns: for a clip's name without suffix, or that behind its folder's; group `label` is the class.
        protocols: a clip's split by its other groups, per protocol; empty for clips that it leaves out. The
            first protocol is the default.
        classes: what the codes of the classes mean; empty where clips are named in words.
    """

    name: str
    example: str
    patterns: tuple[re.Pattern[str], ...]
    protocols: Mapping[str, Protocol]
    classes: Mapping[str, str] = field(default_factory=dict)

    def label(self, code: str) -> str:
        """The class as it is shown: `A001 drink water`, so that classes sort as their codes do."""
        return f"{code} {self.classes[code]}" if code in self.classes else code


def _by_set(group: str, train: set[int]) -> Protocol:
    return lambda codes: "train" if int(codes[group]) in train else "test"


def _by_camera(train: set[int], val: set[int], test: set[int]) -> Protocol:
    parts = {"train": train, "val": val, "test": test}
    part_of = {camera: part for part, cameras in parts.items() for camera in cameras}
    return lambda codes: part_of.get(int(codes["camera"]), "")


SMARTHOME = NamingScheme(
    "Toyota Smarthome",
    "Cook.Stir_p02_r00_v02_c03.mp4",
    (re.compile(r"(?P<label>[^/]+)_p(?P<subject>\d+)_r\d+_v\d+_c(?P<camera>\d+)"),),
    {
        "cross_subject": _by_set("subject", _SMARTHOME_TRAIN_SUBJECTS),
        "cross_view1": _by_camera({1}, {5}, {2}),
        "cross_view2": _by_camera({1, 3, 4, 6, 7}, {5}, {2}),
    },
)
_NTU = re.compile(r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<subject>\d{3})R\d{3}(?P<label>A\d{3})(_rgb)?")
NTU60 = NamingScheme(
    "NTU RGB+D 60",
    "S001C001P001R001A001_rgb.avi",
    (_NTU,),
    {"cross_subject": _by_set("subject", _NTU60_TRAIN_SUBJECTS), "cross_view": _by_set("camera", {2, 3})},
    NTU_CLASSES,
)
NTU120 = NamingScheme(
    "NTU RGB+D 120",
    "S018C001P008R001A061_rgb.avi",
    (_NTU,),
    {
        "cross_subject": _by_set("subject", _NTU120_TRAIN_SUBJECTS),
        "cross_setup": lambda codes: "test" if int(codes["setup"]) % 2 else "train",
    },
    NTU_CLASSES,
)
# Wang et al., "Cross-view Action Modeling, Learning and Recognition", CVPR 2014, section 6: train on two of
# the three cameras, test on the third. Most later work reports training on 1 and 2, testing on 3.
NW_UCLA = NamingScheme(
    "NW-UCLA",
    "a01/v01_s01_e00.avi",
    (
        re.compile(r"(?P<label>a\d\d)/v(?P<camera>\d\d)_s\d\d_e\d\d"),
        re.compile(r"(?P<label>a\d\d)_s\d\d_e\d\d_v(?P<camera>\d\d)"),
        re.compile(r"view_?(?P<camera>\d)/(?P<label>a\d\d)_s\d\d_e\d\d"),
    ),
    {f"cross_view{test}": _by_set("camera", {1, 2, 3} - {test}) for test in (3, 2, 1)},
    NW_UCLA_CLASSES,
)


def read_named(root: Path, protocol: str | None) -> ClipTable | None:
    """Clips below a folder whose names tell class, subject and camera; None where they do not.

    Recognised are Toyota Smarthome (`Cook.Stir_p02_r00_v02_c03.mp4`; protocols cross_subject, cross_view1,
    cross_view2, the latter two with a part `val`), NTU RGB+D 60 and 120 (`S001C001P001R001A001_rgb.avi`;
    cross_subject, and cross_view of 60 or cross_setup of 120), and NW-UCLA (`a01/v01_s01_e00.avi`,
    `a01_s01_e00_v01.avi` or `view_1/a01_s01_e00.avi`; cross_view3, cross_view2, cross_view1, named by the
    camera that is tested on).
    Clips that a protocol does not use are left out.

    Raises:
        ClipTableError: the data set has no such protocol, or some files are not named in its way.
    """
    paths = clips_below(root)
    for scheme in (SMARTHOME, NTU60, NW_UCLA):
        codes = [_codes(scheme, path) for path in paths]
        strangers = [path for path, found in zip(paths, codes) if found is None]
        if not paths or len(strangers) > (1 - _RECOGNISED) * len(paths):
            continue
        if strangers:
            raise ClipTableError(
                f"{root} looks like {scheme.name}, but {len(strangers)} of {len(paths)} clips are not named "
                f"like {scheme.example}; the first is {strangers[0]}. Move them elsewhere."
            )
        known = [found for found in codes if found is not None]
        if scheme is NTU60 and any(int(c["label"][1:]) > 60 or int(c["setup"]) > 17 for c in known):
            scheme = NTU120
        return _divide(root, scheme, paths, known, protocol)
    return None


def _codes(scheme: NamingScheme, path: Path) -> dict[str, str] | None:
    stem = path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
    names = (stem, f"{path.parent.name}/{stem}")
    matches = (pattern.fullmatch(name) for pattern in scheme.patterns for name in names)
    return next((match.groupdict() for match in matches if match), None)


def _divide(
    root: Path, scheme: NamingScheme, paths: list[Path], codes: list[dict[str, str]], protocol: str | None
) -> ClipTable:
    known = list(scheme.protocols)
    chosen = choose_protocol(protocol, known, scheme.name)
    clips = [
        LabelledClip(path, (scheme.label(found["label"]),), split)
        for path, found in zip(paths, codes)
        if (split := scheme.protocols[chosen](found))
    ]
    unused = len(paths) - len(clips)
    note = f"; {unused} clips unused" if unused else ""
    return ClipTable(tuple(clips), f"{root} ({scheme.name}, {chosen} of {', '.join(known)}{note})")
