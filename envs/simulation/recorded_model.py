"""What a recorded scene's model has otherwise than the one built here, found by name.

A demonstration's `model_file` cannot be loaded as it is: its meshes lie where they lay on the machine that
recorded it, and robots' parts have other names in other versions of robosuite. The robots are those of the
robosuite that is installed; the rest of the scene has the same names in robosuite 1.4 and 1.5, so what the
recorded one says of it is written into the model built here.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping

import numpy as np

from fibo_robot.envs.errors import DatasetError

# (tag, name); a geom without a name is called by its body and its number there.
Element = tuple[str, str]
Changes = Mapping[Element, Mapping[str, str | None]]

_OF_ROBOTS = re.compile(r"(robot|gripper|[a-z_]*mount|[a-z_]*base)\d+_|(left|right)_eef_target")
# What moves, touches or is seen; how a version of MuJoCo writes down what is not so is left out.
_COMPARED = {
    "body": ("pos", "quat", "gravcomp"),
    "inertial": ("pos", "quat", "mass", "diaginertia"),
    "joint": ("type", "pos", "axis", "range", "damping", "stiffness", "frictionloss", "armature", "ref"),
    "geom": (
        *("type", "pos", "quat", "size", "mass", "density", "friction", "solref", "solimp", "condim"),
        *("contype", "conaffinity", "margin", "gap", "priority", "rgba"),
    ),
    "site": ("pos", "quat", "size"),
}
# Earlier versions of MuJoCo save six digits of a number.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-7


def model_changes(recorded: str, built: str) -> Changes:
    """The attributes to set in the XML `built` so that its scene is the recorded one; None removes one.

    Raises:
        DatasetError: if `recorded` is no model, or has other bodies, joints or geoms than `built`.
    """
    try:
        theirs = dict(_elements(ElementTree.fromstring(recorded)))
    except ElementTree.ParseError as error:
        raise DatasetError(
            f"A demonstration's model_file is no XML ({error}); the file is damaged."
        ) from error
    ours = dict(_elements(ElementTree.fromstring(built)))
    unmatched = sorted(f"{tag} {name}" for tag, name in theirs.keys() ^ ours.keys() if tag != "site")
    if unmatched:
        some = ", ".join(unmatched[:3]) + (", …" if len(unmatched) > 3 else "")
        raise DatasetError(
            "A demonstration's model_file cannot be matched with the scene that robosuite builds here: only "
            f"one of them has {some}. It was recorded in another scene or by another version of robosuite."
        )
    changes = {}
    for element, element_here in ours.items():
        if element not in theirs:
            continue
        differing = {
            attribute: theirs[element].get(attribute)
            for attribute in _COMPARED[element[0]]
            if not _same(attribute, theirs[element].get(attribute), element_here.get(attribute))
        }
        if differing:
            changes[element] = differing
    return changes


def with_changes(model_xml: str, changes: Changes) -> str:
    """`model_xml` with attributes set."""
    if not changes:
        return model_xml
    root = ElementTree.fromstring(model_xml)
    for element, node in _elements(root):
        for attribute, value in changes.get(element, {}).items():
            if value is None:
                node.attrib.pop(attribute, None)
            else:
                node.set(attribute, value)
    return ElementTree.tostring(root, encoding="unicode")


def _elements(root: ElementTree.Element) -> Iterator[tuple[Element, ElementTree.Element]]:
    """The elements of a scene, without robots."""
    bodies = [body for body in root.iter() if body.tag in ("worldbody", "body")]
    for body in bodies:
        name = body.get("name", body.tag)
        if _OF_ROBOTS.match(name):
            continue
        if body.tag == "body":
            yield ("body", name), body
        unnamed = 0
        for node in body:
            tag = "joint" if node.tag == "freejoint" else node.tag
            if tag not in _COMPARED or tag == "body":
                continue
            own = node.get("name")
            if own is None:
                own, unnamed = f"{name}/{unnamed}", unnamed + 1
            if not _OF_ROBOTS.match(own):
                yield (tag, own), node


def _same(attribute: str, theirs: str | None, ours: str | None) -> bool:
    if theirs == ours:
        return True
    if theirs is None or ours is None:
        return False
    try:
        first, second = (np.array([float(number) for number in text.split()]) for text in (theirs, ours))
    except ValueError:
        return False
    if first.shape != second.shape:
        return False
    if attribute == "quat" and first @ second < 0:  # the same rotation
        second = -second
    return np.allclose(first, second, rtol=_RELATIVE, atol=_ABSOLUTE)
