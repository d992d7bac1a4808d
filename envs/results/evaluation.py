"""What a rollout found: one row per episode, the rates over them, and `eval.json`.

`eval.json` (schema version 2) holds
    schema_version  2
    per_episode     one row per seed: the fields of :class:`fibo_robot.envs.rollouts.episodes.Episode`, and
                    LeRobot's `episode_ix` and `success`
    aggregated      rates over the counted episodes, and LeRobot's `n_success`, `pc_success`,
                    `pc_success_ci95` (Wilson, per cent), `avg_sum_reward`, `avg_max_reward`, `eval_s`,
                    `eval_ep_s`
    video_paths     every video, relative to the folder of `eval.json`
    task            the task as data, resolved; `policy`: which one (class, digest of its weights, attention,
                    device, and what the caller said: checkpoint, dataset hash)
    other_task      how the task differs from the one that the policy was trained for: of every setting that
                    does, `[trained for, evaluated on]`
    rollout         settings that decide an outcome (horizon, batch size, success hold, device)
    versions        packages that decide an outcome
    sessions        wall time, env steps and its split for each uninterrupted stretch of work
    notes           sentences that the caller kept with the result
    training        how the policy was trained: `config`, `history` with one row of metrics an epoch, `cost`
Names that LeRobot's `eval_info.json` has too mean the same there; `success` is success at any step.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fibo_robot.envs.errors import EvaluationError
from fibo_robot.envs.rollouts.episodes import EVAL_FILE, Episode, Session
from fibo_robot.files import write_json
from fibo_robot.statistics import Interval, wilson_interval

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Evaluation:
    """The outcome of :func:`fibo_robot.envs.rollout`."""

    episodes: tuple[Episode, ...]
    task: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    rollout: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    other_task: Mapping[str, Any] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()
    notes: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> tuple[Episode, ...]:
        """Episodes that say something about the policy: all but those the machinery lost."""
        return tuple(episode for episode in self.episodes if episode.counts)

    @property
    def errors(self) -> tuple[Episode, ...]:
        """Episodes that did not run to their end, for whichever reason."""
        return tuple(episode for episode in self.episodes if episode.error is not None)

    @property
    def successes(self) -> int:
        """Counted episodes solved at some step."""
        return sum(episode.success_once for episode in self.counted)

    @property
    def success_rate(self) -> float:
        """Share of counted episodes solved at some step; NaN where none counts."""
        return self.successes / len(self.counted) if self.counted else math.nan

    @property
    def success_at_end_rate(self) -> float:
        """Share of counted episodes solved at their last step; NaN where none counts."""
        counted = self.counted
        return sum(episode.success_at_end for episode in counted) / len(counted) if counted else math.nan

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of :attr:`success_rate`."""
        return wilson_interval(self.successes, len(self.counted))

    @property
    def seconds(self) -> float:
        """Wall time of all recorded sessions."""
        return sum(session.wall for session in self.sessions)

    @property
    def env_steps_per_s(self) -> float:
        """Control steps per second of wall time, over the recorded sessions; NaN where there is none."""
        return sum(s.env_steps for s in self.sessions) / self.seconds if self.seconds else math.nan

    def by_seed(self) -> dict[int, Episode]:
        """Counted episodes by seed."""
        return {episode.seed: episode for episode in self.counted}

    def outcomes(self) -> dict[int, bool]:
        """Whether each counted episode was solved at some step, by seed."""
        return {episode.seed: episode.success_once for episode in self.counted}

    def to_dict(self) -> dict[str, Any]:
        """The content of `eval.json`."""
        rows = [
            {"episode_ix": index, "success": episode.success_once, **episode.to_dict()}
            for index, episode in enumerate(self.episodes)
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "per_episode": rows,
            "aggregated": self._aggregated(),
            "video_paths": [episode.video for episode in self.episodes if episode.video],
            "task": dict(self.task),
            "policy": dict(self.policy),
            "rollout": dict(self.rollout),
            "versions": dict(self.versions),
            "other_task": dict(self.other_task),
            "sessions": [session.to_dict() for session in self.sessions],
            "notes": list(self.notes),
            "training": dict(self.training),
        }

    def save(self, directory: Path | str) -> Path:
        """Write `eval.json` into `directory`, atomically; returns its path.

        Raises:
            EvaluationError: the file cannot be written.
        """
        target = Path(directory) / EVAL_FILE
        try:
            write_json(target, self.to_dict())
        except OSError as error:
            raise EvaluationError(
                f"{target} cannot be written ({error.strerror or error}). Make room and run the same again "
                "with --resume: every finished episode is kept."
            ) from error
        return target

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """Read `eval.json`, or the one in a folder.

        Raises:
            EvaluationError: if there is none, or it is not an evaluation of this schema.
        """
        path = Path(path)
        path = path / EVAL_FILE if path.is_dir() else path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EvaluationError(
                f"There is no {path}; `fibo rollout` writes it when it has finished."
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise EvaluationError(f"{path} cannot be read as an evaluation ({error}).") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise EvaluationError(
                f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}; roll out again."
            )
        try:
            return cls._from_dict(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise EvaluationError(
                f"{path} is incomplete or damaged ({reason}). Run `fibo rollout` again, with --resume where "
                "its folder still has episodes.jsonl."
            ) from error

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any]) -> "Evaluation":
        """Read what :meth:`to_dict` wrote; KeyError, TypeError, ValueError or AttributeError otherwise."""
        episodes = tuple(Episode.from_dict(row) for row in values["per_episode"])
        for episode in episodes:
            if type(episode.seed) is not int or type(episode.success_once) is not bool:
                raise ValueError(f"an episode with seed {episode.seed!r}, success {episode.success_once!r}")
        if len({episode.seed for episode in episodes}) < len(episodes):
            raise ValueError("a seed has more than one episode")
        for name in ("task", "policy", "rollout", "versions", "other_task"):
            if not isinstance(values[name], dict):
                raise ValueError(f"{name} is no mapping")
        if "name" not in values["task"]:
            raise ValueError("the task has no name")
        return cls(
            episodes=episodes,
            task=values["task"],
            policy=values["policy"],
            rollout=values["rollout"],
            versions=values["versions"],
            other_task=values["other_task"],
            sessions=tuple(Session.from_dict(session) for session in values["sessions"]),
            notes=tuple(values["notes"]),
            training=values.get("training", {}),
        )

    def _aggregated(self) -> dict[str, Any]:
        counted = self.counted
        interval = self.interval
        episodes_timed = sum(session.episodes for session in self.sessions)
        return {
            "n_episodes": len(self.episodes),
            "n_counted": len(counted),
            "n_errors": len(self.errors),
            "success_once": _number(self.success_rate),
            "success_at_end": _number(self.success_at_end_rate),
            "success_interval": [interval.low, interval.high],
            "n_success": self.successes,
            "pc_success": _number(100 * self.success_rate),
            "pc_success_ci95": [100 * interval.low, 100 * interval.high],
            "avg_sum_reward": _mean([episode.sum_reward for episode in counted]),
            "avg_max_reward": _mean([episode.max_reward for episode in counted]),
            "avg_length": _mean([episode.length for episode in counted]),
            "eval_s": self.seconds,
            "eval_ep_s": self.seconds / episodes_timed if episodes_timed else None,
            "env_steps_per_s": _number(self.env_steps_per_s),
        }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
