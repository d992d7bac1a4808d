"""The model card of a run directory: what it is, how it came about, what was measured of it, as found there.

Nothing in a card is typed in: names and versions come from meta.json and config.yaml, rates with their
intervals from the `eval.json` of rollouts and the `test.json` of video tests, pictures and films from the
folders beside these. Results of other weights than the run has now are left out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fibo_robot.hub.source import HubError
from fibo_robot.statistics import format_interval, format_rate
from fibo_robot.training.checkpoint import Checkpoint, state_digest

LARGEST_FILM = 20e6  # bytes; a longer one is left out rather than uploaded with every push


@dataclass(frozen=True)
class Card:
    """A model card and the files it shows.

    Attributes:
        text: README.md, with its YAML header.
        files: paths below the run directory that it shows or rests on.
        left_out: results there of other weights than the run has now.
    """

    text: str
    files: tuple[Path, ...]
    left_out: tuple[Path, ...]


@dataclass(frozen=True)
class _Kind:
    """What is said of a kind of model: the Hub's name of its task, and how it is used."""

    task: str
    what: str
    command: str
    load: str
    module: str


_KINDS = {
    "policy": _Kind("robotics", "A policy", "fibo rollout {} --episodes 200", "load_policy", "policies"),
    "classifier": _Kind(
        "video-classification", "A video classifier", "fibo classify {} clip.mp4", "load_classifier", "video"
    ),
    "image_classifier": _Kind(
        "image-classification",
        "An image classifier",
        "fibo classify {} picture.jpg",
        "load_image_classifier",
        "video.images.predict",
    ),
}


@dataclass(frozen=True)
class _Result:
    """One measured rate: `what` on how many of `what it counts`, with its 95 % interval."""

    what: str
    rate: float
    low: float
    high: float
    count: str
    file: Path

    def row(self) -> str:
        interval = format_interval(self.low, self.high)
        return f"| {self.what} | {format_rate(self.rate)} | {interval} | {self.count} |"


def make_card(checkpoint: Checkpoint, repository: str) -> Card:
    """Describe a run directory.

    Args:
        checkpoint: the run, from a folder.
        repository: owner/name, for the commands that the card shows.

    Raises:
        HubError: a result beside it is damaged, or it is of a kind that is not known.
    """
    folder, kind = checkpoint.directory, _KINDS.get(checkpoint.meta.get("kind", ""))
    if kind is None:
        raise HubError(f"{folder} holds no {', '.join(_KINDS)}: give a run directory of one.")
    found = list(_results(folder, state_digest(checkpoint.state_dict)))
    results = [result for result in found if isinstance(result, _Result)]
    measured = dict.fromkeys(result.file.parent for result in results)
    pictures = [path for place in measured for path in sorted(place.glob("confusion.png"))]
    films = [film for place in measured for film in _films(place / "videos")]
    parts = [
        _header(kind),
        f"# {repository.partition('/')[2]}",
        _what_it_is(checkpoint, kind),
        _use(repository, kind),
        _results_table(results),
        *(f"![{path.parent.name}: confusion matrix]({path.as_posix()})" for path in _below(folder, pictures)),
        *(f'<video controls src="{path.as_posix()}"></video>' for path in _below(folder, films)),
        _origin(checkpoint),
    ]
    shown = [*(result.file for result in results), *pictures, *films]
    left_out = [path for path in found if isinstance(path, Path)]
    return Card("\n\n".join(parts) + "\n", tuple(_below(folder, shown)), tuple(left_out))


def _header(kind: _Kind) -> str:
    from huggingface_hub import ModelCardData

    tags = ["fibo_robot", kind.task]
    data = ModelCardData(library_name="fibo_robot", pipeline_tag=kind.task, tags=tags)
    return f"---\n{data.to_yaml()}\n---"


def _what_it_is(checkpoint: Checkpoint, kind: _Kind) -> str:
    meta = checkpoint.meta
    encoder = _find(checkpoint.config, "encoder") or {}
    attention = encoder.get("attention")
    attention = attention.get("name") if isinstance(attention, dict) else attention
    through = f", with the encoder `{encoder['name']}`" if "name" in encoder else ""
    through += f" and the attention `{attention}`" if attention else ""
    if kind is not _KINDS["policy"]:
        labels = meta.get("labels", [])
        names = ", ".join(map(str, labels))
        return f"{kind.what} of {len(labels)} classes{through}.\n\nClasses: {names}."
    task = meta.get("task", {}).get("name", "an unnamed task")
    seen = ", ".join(f"`{key}`" for key in meta.get("shape_meta", {}).get("obs", {}))
    family = str((checkpoint.config.get("policy") or {}).get("_target_", "policy")).rpartition(".")[2]
    return f"{kind.what} (`{family}`) for the task `{task}`{through}. It sees {seen}."


def _use(repository: str, kind: _Kind) -> str:
    source = f"hf:{repository}"
    return (
        f"## Use\n\n```sh\npip install fibo-robot\n{kind.command.format(source)}\n```\n\n"
        f"```python\nfrom fibo_robot.{kind.module} import {kind.load}\n\n"
        f'model = {kind.load}("{source}")\n```\n\n'
        "Loading runs no code of this repository and reads no pickle."
    )


def _results_table(results: list[_Result]) -> str:
    if not results:
        return "## Results\n\nNothing was measured in its run directory."
    rows = "\n".join(result.row() for result in results)
    return (
        f"## Results\n\n| | rate | 95 % interval | over |\n|---|---|---|---|\n{rows}\n\n"
        "One training run; the intervals (Wilson's of a rate, a bootstrap's of a mean average precision) are "
        "about its episodes, clips or pictures, not about training again."
    )


def _results(folder: Path, weights: str) -> Iterator[_Result | Path]:
    """What `fibo rollout` and tests of classifiers left below a run; of other weights, the path alone."""
    for path in sorted([*folder.glob("**/eval.json"), *folder.glob("**/test.json")]):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            is_rollout = path.name == "eval.json"
            if (values["policy"] if is_rollout else values).get("weights") != weights:
                yield path
            else:
                yield from (_of_rollout if is_rollout else _of_test)(values, path)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise HubError(f"{path} is damaged ({error}): remove it, or evaluate again.") from error


def _of_rollout(values: dict[str, Any], path: Path) -> Iterator[_Result]:
    total = values["aggregated"]
    if total["success_once"] is None:
        return
    seeds = [row["seed"] for row in values["per_episode"]]
    count = f"{total['n_counted']} episodes, seeds {min(seeds)} to {max(seeds)}"
    if total["n_errors"]:
        count += f", {total['n_errors']} more did not run to their end"
    what = f"success on {values['task']['name']}"
    if values["other_task"]:
        what += " (not the task it was trained for)"
    low, high = total["success_interval"]
    yield _Result(what, total["success_once"], low, high, count, path)


def _of_test(values: dict[str, Any], path: Path) -> Iterator[_Result]:
    if "pictures" in values:
        count = f"{values['pictures']} pictures"
    else:
        count = f"{values['videos']} videos, {values['views']} views x {values['crops']} crops"
    if values.get("failures"):
        count += f", {len(values['failures'])} more could not be read"
    rates = {
        "top1": "top-1 accuracy",
        "top5": "top-5 accuracy",
        "mean_average_precision": "mean average precision",
    }
    if not rates.keys() & values.keys():
        raise KeyError("top1")
    for name, what in rates.items():
        if (rate := values.get(name)) is not None:
            yield _Result(what, rate["value"], rate["low"], rate["high"], count, path)


def _origin(checkpoint: Checkpoint) -> str:
    meta = checkpoint.meta
    known = ("name", "protocol", "demos", "train_clips", "valid_clips", "sha256")
    dataset = meta.get("dataset", {})
    facts = {
        "data": ", ".join(f"{key} {dataset[key]}" for key in known if dataset.get(key) is not None),
        "steps": meta.get("step"),
        "fibo_robot": meta.get("fibo_robot"),
        "source revision": meta.get("git_revision"),
        "versions": ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items()),
    }
    lines = "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)
    return f"## How it came about\n\n{lines}\n\n`config.yaml` is the whole training config."


def _films(videos: Path) -> list[Path]:
    """One film of an evaluation: all episodes side by side where there is such, else the first."""
    found = [path for path in sorted(videos.glob("*.mp4")) if path.stat().st_size <= LARGEST_FILM]
    return [path for path in found if path.name == "grid.mp4"] or found[:1]


def _find(node: Any, key: str) -> dict[str, Any] | None:
    """The first mapping under `key` in a config, from the outside in."""
    if not isinstance(node, dict):
        return None
    if isinstance(node.get(key), dict):
        return node[key]
    return next((found for child in node.values() if (found := _find(child, key)) is not None), None)


def _below(folder: Path, paths: list[Path]) -> list[Path]:
    return [path.relative_to(folder) for path in dict.fromkeys(paths)]
