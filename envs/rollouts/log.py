"""`episodes.jsonl`: what a rollout has finished so far, one JSON object a line, never rewritten.

The first line is the header: what decides an outcome (task, policy, settings, versions). Every finished
episode adds a line that reaches the disk before the next begins, and every stretch of work a line at its end.
A line torn by a crash is dropped and its episode runs again.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fibo_robot.envs.errors import EvaluationError
from fibo_robot.envs.rollouts.episodes import EVAL_FILE, Episode, Session

LOG_FILE = "episodes.jsonl"


class EpisodeLog:
    """The log in one folder.

    Attributes:
        episodes: finished episodes by seed.
        sessions: finished stretches of work.
    """

    def __init__(self, directory: Path | str, header: Mapping[str, Any], resume: bool) -> None:
        """Open the log of `directory`, or begin one.

        Args:
            directory: created where it is missing.
            header: JSON-ready; what must be the same for episodes to belong to one evaluation.
            resume: go on with a log that is there.

        Raises:
            EvaluationError: there is a log and `resume` is false, it is damaged, or its header differs.
        """
        self.path = Path(directory) / LOG_FILE
        self.episodes: dict[int, Episode] = {}
        self.sessions: list[Session] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._complete_lines()
        if lines and not resume:
            raise EvaluationError(
                f"{self.path.parent} already holds an evaluation. Add --resume to run its missing episodes, "
                "or choose another --output."
            )
        if lines:
            try:
                self._check_header(lines[0].get("header"), header)
                for line in lines[1:]:
                    self._take(line)
            except (AttributeError, KeyError, TypeError) as error:
                raise self._damaged(error) from error
        else:
            self._append({"header": header})

    def check_seeds(self, seeds: Collection[int]) -> None:
        """Refuse a log of other seeds: its evaluation would silently leave episodes out.

        Raises:
            EvaluationError: an episode here belongs to none of `seeds`.
        """
        foreign = sorted(set(self.episodes).difference(seeds))
        if foreign:
            raise EvaluationError(
                f"{self.path.parent} holds {len(self.episodes)} episodes, from seed {min(self.episodes)} on, "
                f"and this rollout does not ask for seed {foreign[0]}. Resume it with its own --seed and at "
                "least as many --episodes, or choose another --output."
            )

    def is_final(self, seed: int) -> bool:
        """Whether a seed need not run again: it has an episode that no worker failure cut short."""
        return seed in self.episodes and self.episodes[seed].counts

    def add(self, episode: Episode) -> None:
        """Keep a finished episode."""
        self._append({"episode": episode.to_dict()})
        self.episodes[episode.seed] = episode

    def add_session(self, session: Session) -> None:
        """Keep the account of a stretch of work."""
        self.sessions.append(session)
        self._append({"session": session.to_dict()})

    def _complete_lines(self) -> list[dict[str, Any]]:
        """The log's lines; cuts off what a crash left of a last one."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.truncate(self.path, len(complete))
        try:
            return [json.loads(line) for line in complete.splitlines()]
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> EvaluationError:
        return EvaluationError(f"{self.path} is damaged ({error}); choose another --output.")

    def _check_header(self, found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
        found = found or {}
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise EvaluationError(
                f"{self.path.parent} was evaluated with another {' and '.join(differing)}, so its episodes "
                f"cannot be continued. Choose another --output (or remove {LOG_FILE} and {EVAL_FILE})."
            )

    def _take(self, line: Mapping[str, Any]) -> None:
        if "episode" in line:
            episode = Episode.from_dict(line["episode"])
            self.episodes[episode.seed] = episode
        else:
            self.sessions.append(Session.from_dict(line["session"]))

    def _append(self, line: Mapping[str, Any]) -> None:
        length = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, length)
            raise EvaluationError(
                f"{self.path} cannot be written ({error.strerror}). Make room and go on with --resume; "
                f"{len(self.episodes)} episodes are kept."
            ) from error
