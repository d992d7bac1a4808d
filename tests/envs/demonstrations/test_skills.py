"""Clips of skills: which episode gives which clips, in which order."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fibo_robot.envs.demonstrations import skills
from fibo_robot.video import VideoReader

PARTNERS = {"lift": "lower", "approach": "retreat", "move_right": "move_left"}


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clips of episodes that only brighten, or, of skills that are played backwards, darken."""

    def perform(env: object, label: str, seed: int) -> list[np.ndarray]:
        skill = next(skill for skill in skills.SKILLS if skill.label == label)
        frames = [np.full((32, 32, 3), 40 + 10 * step, np.uint8) for step in range(skills.FRAMES)]
        return frames[::-1] if skill.backwards else frames

    def run(job: Callable[..., None], todo: Sequence[object], *_: Any) -> Iterator[None]:
        for item in todo:
            yield job(None, item)

    monkeypatch.setattr(skills, "perform_skill", perform)
    monkeypatch.setattr(skills, "map_with_environment", run)
    return skills.record_skills(tmp_path / "clips", episodes_per_class=4, seed=10, image_size=32)


def rows(table: Path) -> list[tuple[str, str, Path, str]]:
    """Label, episode, file and split of every clip."""
    with table.open(newline="") as file:
        return [
            (
                row["label"],
                Path(row["path"]).stem.rpartition("_")[2],
                table.parent / row["path"],
                row["split"],
            )
            for row in csv.DictReader(file)
        ]


def test_a_training_episode_gives_both_of_a_pair_and_a_test_episode_one(recorded: Path) -> None:
    given: dict[tuple[str, str], set[str]] = {}
    for label, episode, _, split in rows(recorded):
        given.setdefault((split, episode), set()).add(label)
    pairs = [set(pair) for pair in PARTNERS.items()]
    assert all(labels in pairs for (split, _), labels in given.items() if split == "train")
    assert sorted(
        label for (split, _), labels in given.items() if split == "test" for label in labels
    ) == sorted([*PARTNERS, *PARTNERS.values()])
    assert len(given) == 6 * 4  # no episode is in both parts


def test_every_clip_of_a_skill_plays_its_way(recorded: Path) -> None:
    for label, _, path, _ in rows(recorded):
        reader = VideoReader(path)
        brightness = reader.read(range(len(reader))).mean(axis=(1, 2, 3))
        assert len(brightness) == skills.FRAMES
        assert (np.diff(brightness) > 0).all() if label in PARTNERS else (np.diff(brightness) < 0).all()
