"""Whether the simulator still means what it meant: how recorded demonstrations fare when played again.

A policy is judged in the simulator that is installed, its demonstrations were often recorded in another one.
`fibo demos replay FILE --by actions` plays their actions with nothing to correct them; what that gave for the
tasks of this project is shipped as `replay_gate.json`, a list of `Replay.to_dict()`, and reports quote it.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

_DECISIVE = ("robosuite", "mujoco")


def gate_results() -> list[dict[str, Any]]:
    """The shipped results, one per file of demonstrations."""
    text = resources.files("fibo_robot.envs.results").joinpath("replay_gate.json").read_text(encoding="utf-8")
    return json.loads(text)


def gate_sentences(task: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """What the shipped results say of a task, one sentence each; none where there are none.

    Args:
        task: as an evaluation holds it.
        versions: of the packages that the evaluation was made with.
    """
    return [
        _sentence(row, versions)
        for row in gate_results()
        if row["env_name"] == task.get("env_name")
        and list(row["robots"]) == list(task.get("robots", ()))
        and row["mode"] == (task.get("action") or {}).get("mode")
    ]


def _sentence(row: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    recorded, replayed = (_in_words(row[key]) for key in ("recorded_with", "replayed_with"))
    drift = row["median_object_drift"]
    off = "" if drift is None else f"; the object was off by {1000 * drift:.2g} mm at most in half of them"
    sentence = (
        f"Replay gate: {row['successes']} of {row['demonstrations']} demonstrations by "
        f"{row['recorded_by'] or 'others'} (recorded with {recorded}) still succeed when their actions are "
        f"played with nothing to correct them in {replayed}{off}."
    )
    if any(versions.get(name) != row["replayed_with"].get(name) for name in _DECISIVE):
        sentence += f" These rollouts used {_in_words(versions)}, for which that was not tried."
    return sentence


def _in_words(versions: Mapping[str, str]) -> str:
    known = [f"{name} {versions[name]}" for name in _DECISIVE if name in versions]
    return " and ".join(known) or "unknown versions"
