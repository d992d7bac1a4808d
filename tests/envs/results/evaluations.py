"""Evaluations as rollouts leave them, made from letters."""

from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.results.runs import LastCheckpoints
from fibo_robot.envs.rollouts.episodes import Episode

TASK = {"name": "lift", "horizon": 400, "cameras": ["agentview"]}


def evaluation(outcomes, first_seed=0, **task):
    """`outcomes`: one letter per seed, `s`olved, `f`ailed, or lost to the machinery (`e`)."""
    episodes = tuple(
        Episode(
            seed=seed,
            success_once=letter == "s",
            success_at_end=letter == "s",
            length=50,
            scene=f"scene-{seed}",
            error="lost" if letter == "e" else None,
            error_source="worker" if letter == "e" else None,
        )
        for seed, letter in enumerate(outcomes, start=first_seed)
    )
    return Evaluation(episodes, task={**TASK, **task}, rollout={"success_hold": 10})


def last(*checkpoints):
    """A run's last checkpoints, each given as `outcomes` of :func:`evaluation`."""
    return LastCheckpoints({f"epoch_{n:05}": evaluation(row) for n, row in enumerate(checkpoints, start=1)})


def saved_checkpoints(folder):
    found = last("ssff", "sfff")
    for name, one in found.evaluations.items():
        (folder / name).mkdir(parents=True)
        one.save(folder / name)
    found.save(folder)
    return found
