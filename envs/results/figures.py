"""Figures about evaluations, in the style of the reports."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fibo_robot.envs.rollouts.episodes import Episode
from fibo_robot.reporting import FIGURE_STYLE
from fibo_robot.statistics import Interval

if TYPE_CHECKING:
    from fibo_robot.envs.rollouts.action_trace import ActionTrace

_COLOURS = FIGURE_STYLE["axes.prop_cycle"].by_key()["color"]
SUCCESS, FAILURE = "#2e9e6b", "#d9730d"
# One arm's entries of an action, as robomimic's controller reads them.
_ARM_ACTION = ("x", "y", "z", "turn x", "turn y", "turn z", "gripper")


def rates_figure(rates: Mapping[str, tuple[float, Interval]]) -> Figure:
    """Success rates with their intervals, one row per method, by its name."""
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.6, 1.1 + 0.45 * len(rates)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(rates))[::-1]
        middles = np.array([rate for rate, _ in rates.values()])
        lows, highs = np.array([interval for _, interval in rates.values()]).T
        # Rounding may put an end a hair inside of the rate, which matplotlib refuses.
        ends = np.stack([middles - lows, highs - middles]).clip(min=0)
        axes.errorbar(middles * 100, places, xerr=ends * 100, fmt="o", capsize=4)
        axes.set_yticks(places, list(rates))
        axes.set_ylim(-0.6, len(rates) - 0.4)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("success rate, %, with 95 % interval")
    return figure


def positions_figure(episodes: Sequence[Episode]) -> Figure:
    """Where the object began in each episode, seen from above, coloured by outcome."""
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        placed = [
            (episode.success_once, next(iter(episode.object_positions.values()))[:2])
            for episode in episodes
            if episode.counts and episode.object_positions
        ]
        for success, colour, marker in ((True, SUCCESS, "o"), (False, FAILURE, "X")):
            chosen = [position for solved, position in placed if solved == success]
            points = np.array(chosen).reshape(-1, 2) * 100
            label = f"{'solved' if success else 'not solved'} ({len(chosen)})"
            axes.scatter(points[:, 0], points[:, 1], c=colour, marker=marker, s=50, label=label)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("object's initial x, cm")
        axes.set_ylabel("object's initial y, cm")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    return figure


def time_figure(seconds: Mapping[str, float]) -> Figure:
    """Where the time went: one stacked bar."""
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.6, 1.5), layout="constrained")
        axes = figure.add_subplot()
        left, total = 0.0, sum(seconds.values()) or 1.0
        for name, value in seconds.items():
            axes.barh([0], [100 * value / total], left=left, label=name)
            left += 100 * value / total
        axes.set_yticks([])
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of worker and policy time, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(seconds))
    return figure


def curves_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss over training, dashed on training data and solid on validation data, one colour per run.

    Args:
        histories: by run, one row per epoch with `step` and some of `train/loss` and `valid/loss`.
    """
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.6, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for index, (run, history) in enumerate(histories.items()):
            for metric, style in (("train/loss", "--"), ("valid/loss", "-")):
                rows = [row for row in history if metric in row and "step" in row]
                steps, losses = [row["step"] for row in rows], [row[metric] for row in rows]
                axes.plot(steps, losses, style, color=_COLOURS[index % len(_COLOURS)])
            axes.plot([], [], color=_COLOURS[index % len(_COLOURS)], label=run)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        if len(histories) > 1:
            axes.legend(loc="upper right")
    return figure


def action_figure(trace: "ActionTrace", first_success: int | None) -> Figure:
    """An episode's actions, one row per dimension, and below them the numbers about its decisions.

    Args:
        trace: what the policy did.
        first_success: the step, counted from 1, after which the task was first solved; it is marked.
    """
    steps, size = trace.actions.shape
    arms, rest = divmod(size, len(_ARM_ACTION))
    names = [f"action {index + 1}" for index in range(size)]
    if rest == 0:
        names = [
            name if arms == 1 else f"{name}, {arm}" for arm in range(1, arms + 1) for name in _ARM_ACTION
        ]
    rows = size + len(trace.decisions)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(5.4, 0.8 + 0.6 * rows), layout="constrained")
        axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        time = np.arange(1, steps + 1)
        for index, (ax, name) in enumerate(zip(axes, names)):
            ax.step(time, trace.actions[:, index], where="mid", linewidth=1.4)
            ax.axhline(0.0, color="#8c93a3", linewidth=0.8)
            reach = max(1.0, float(np.abs(trace.actions[:, index]).max()))
            ax.set_ylim(-1.15 * reach, 1.15 * reach)
            ax.set_yticks([-round(reach), round(reach)])
            _name_row(ax, name)
        decided = 1 + trace.n_action_steps * np.arange(len(next(iter(trace.decisions.values()), ())))
        for ax, (name, values) in zip(axes[size:], trace.decisions.items()):
            ax.plot(decided, values, "o-", color=_COLOURS[4], markersize=2.5, linewidth=1.2)
            ax.margins(y=0.2)
            ax.locator_params(axis="y", nbins=2)
            _name_row(ax, name)
        for ax in axes:
            if first_success is not None:
                ax.axvline(first_success, color=SUCCESS, linewidth=1.6)
        axes[-1].set_xlim(0.5, steps + 0.5)
        axes[-1].set_xlabel("control step" + (", green: first solved" if first_success is not None else ""))
    return figure


def _name_row(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    axes.tick_params(axis="y", labelsize=8)
