"""Figures about evaluations, in the style of the reports."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fibo_robot.envs.episodes import Episode
from fibo_robot.reporting import FIGURE_STYLE

if TYPE_CHECKING:
    from fibo_robot.envs.comparison import MethodRow

SUCCESS, FAILURE = "#2e9e6b", "#d9730d"


def rates_figure(methods: Sequence["MethodRow"]) -> Figure:
    """Success rates with their intervals, one row per method."""
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.6, 1.1 + 0.45 * len(methods)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(methods))[::-1]
        rates = np.array([row.success_rate for row in methods])
        # Rounding may put an end a hair inside of the rate, which matplotlib refuses.
        ends = [
            [max(0.0, r.success_rate - r.low) for r in methods],
            [max(0.0, r.high - r.success_rate) for r in methods],
        ]
        axes.errorbar(rates * 100, places, xerr=np.array(ends) * 100, fmt="o", capsize=4)
        axes.set_yticks(places, [row.method for row in methods])
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("success rate, %, with 95 % interval")
    return figure


def positions_figure(episodes: Sequence[Episode]) -> Figure:
    """Where the object began in each episode, seen from above, coloured by outcome."""
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        placed = [episode for episode in episodes if episode.counts and episode.object_position]
        for success, colour, marker in ((True, SUCCESS, "o"), (False, FAILURE, "X")):
            chosen = [e for e in placed if e.success_once == success]
            points = np.array([e.object_position[:2] for e in chosen]).reshape(-1, 2) * 100
            label = f"{'solved' if success else 'not solved'} ({len(chosen)})"
            axes.scatter(points[:, 0], points[:, 1], c=colour, marker=marker, s=50, label=label)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("object's initial x, cm")
        axes.set_ylabel("object's initial y, cm")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    return figure


def time_figure(seconds: dict[str, float]) -> Figure:
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
