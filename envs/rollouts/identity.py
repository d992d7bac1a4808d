"""Which policy an evaluation is of, and whether it is evaluated on the task it was trained for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fibo_robot.attention.modules import AttentionModule
from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.pusht import PushTTask
from fibo_robot.envs.tasks import Task as SimulatorTask
from fibo_robot.envs.tasks import task_from_dict
from fibo_robot.interfaces import Policy, ShapeMeta, Task
from fibo_robot.training.checkpoint import state_digest


def policy_device(policy: Policy) -> torch.device:
    """Where a policy wants its observations: at its `device` if it has one, else where its parameters are."""
    device = getattr(policy, "device", None)
    if device is not None:
        return torch.device(device)
    if isinstance(policy, nn.Module):
        for tensor in (*policy.parameters(), *policy.buffers()):
            return tensor.device
    return torch.device("cpu")


def describe_policy(policy: Policy, info: Mapping[str, Any] | None) -> dict[str, Any]:
    """What identifies a policy wherever it lies: JSON-ready, equal only for policies that decide alike.

    Args:
        policy: whose.
        info: what the caller knows of it beside (checkpoint, data set); of a policy that is no `nn.Module`
            nothing else tells it from another of its class.

    Returns:
        `class`, `device`, and of an `nn.Module` `weights` (:func:`weights_digest`) and `attention` (names of
        the attentions in it); then `info`.
    """
    described: dict[str, Any] = {"class": type(policy).__qualname__, "device": policy_device(policy).type}
    if isinstance(policy, nn.Module):
        described["weights"] = weights_digest(policy)
        described["attention"] = sorted(
            {module.name for module in policy.modules() if isinstance(module, AttentionModule)}
        )
    return {**described, **(info or {})}


def weights_digest(module: nn.Module) -> str:
    """:func:`state_digest` of a module's state dict."""
    return state_digest(module.state_dict())


def can_be_identified(policy: Policy, info: Mapping[str, Any] | None) -> bool:
    """Whether :func:`describe_policy` tells this policy from others of its class."""
    return isinstance(policy, nn.Module) or bool(info)


def choose_task(policy: Policy, task: Task | None, allow_other_task: bool) -> tuple[Task, dict[str, Any]]:
    """The task to evaluate on, resolved for this machine, and how it differs from the policy's own.

    Args:
        policy: its `meta["task"]`, where it has one, is the task it was trained for.
        task: what was asked for; None: the policy's own.
        allow_other_task: whether they may differ.

    Returns:
        the task, and for every setting that differs `[trained for, evaluated on]`; empty where all are equal,
        or nothing is known of the policy's own.

    Raises:
        RolloutError: no task is known, or it is another one than the policy's and that was not allowed.
    """
    trained = (getattr(policy, "meta", None) or {}).get("task")
    if task is None:
        if trained is None:
            raise RolloutError(
                f"The policy ({type(policy).__name__}) does not say which task it was trained for; give one, "
                "such as get_task('lift')."
            )
        return task_from_dict(trained).resolved(), {}
    task = task.resolved()
    if trained is None:
        return task, {}
    asked, own = task.to_dict(), trained
    if isinstance(task, SimulatorTask | PushTTask):
        own = task_from_dict(trained).resolved().to_dict()
    asked, own = (json.loads(json.dumps(values)) for values in (asked, own))  # tuples are lists
    differences = {
        name: [own.get(name), asked.get(name)]
        for name in sorted({*own, *asked})
        if own.get(name) != asked.get(name)
    }
    if differences and not allow_other_task:
        raise RolloutError(
            f"The policy was trained on another task: {_in_words(differences)}. Leave the task out to take "
            "the policy's own, or allow it (allow_other_task=True, --other-task); the result will say so."
        )
    return task, differences


def other_task_note(differences: Mapping[str, Any]) -> str:
    """A sentence for the report about :func:`choose_task`'s differences."""
    return f"This is not the task that the policy was trained for: {_in_words(differences)}."


def _in_words(differences: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        return str(value) if isinstance(value, str | int | float | bool) else "other"

    return "; ".join(
        f"{name} was {shown(own)}, is {shown(here)}"
        if "other" not in (shown(own), shown(here))
        else f"{name} differs"
        for name, (own, here) in differences.items()
    )


def seen_in_training(policy: Policy, seeds: Sequence[int], other_task: Mapping[str, Any]) -> str | None:
    """A sentence for the report where episodes begin as demonstrations that the policy was trained on did.

    Args:
        policy: its `meta["dataset"]["seeds"]`, where it has them, are those of its demonstrations.
        seeds: of the episodes.
        other_task: :func:`choose_task`'s differences; seeds of another environment are other start states.
    """
    known = (getattr(policy, "meta", None) or {}).get("dataset", {}).get("seeds", ())
    both = sorted(set(seeds).intersection(known))
    if not both or "env_name" in other_task:
        return None
    return (
        f"{len(both)} of {len(seeds)} episodes begin where a demonstration began that the policy was trained "
        f"on (seeds {both[0]} to {both[-1]}): their success says little of states it has not seen."
    )


def check_layout(task: Task, shape_meta: ShapeMeta) -> None:
    """Refuse a policy that sees other observations than `task` gives, or acts in another way than it takes.

    Nothing is started for that.

    Raises:
        RolloutError: the message names the observation and both shapes, or both kinds of actions.
        FiboError: the task lacks an observation.
    """
    wanted, taken = shape_meta.action, task.action
    if (wanted.dim, wanted.mode) != (taken.dim, taken.mode):
        raise RolloutError(
            f"The policy gives {wanted.dim} numbers per action ({wanted.mode}), the task {task.name} takes "
            f"{taken.dim} ({taken.mode}). Evaluate it on the task it was trained for."
        )
    for key, spec in shape_meta.obs.items():
        given = task.observation_spec(key)
        if given != spec:
            raise RolloutError(
                f"The policy sees {key} as {spec.kind} {tuple(spec.shape)}, the task {task.name} gives "
                f"{given.kind} {tuple(given.shape)}. Evaluate it on the task it was trained for, or train it "
                "anew for this one."
            )
