"""Watch a policy's attention over a whole episode while its recorded actions are played again.

Nothing is decided anew. The scene follows the recorded actions, so the policy sees what it saw, and its
attention on that is recorded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fibo_robot.envs.results.attention.overlay import SeenImage, image_encoders, look
from fibo_robot.envs.results.attention.report import AttentionView
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.action_trace import ActionTrace
from fibo_robot.envs.rollouts.videos import VIDEO_FOLDER, VideoWriteError, encode_mp4, write_video
from fibo_robot.envs.rollouts.workers.episode_runner import Act, Begin, EpisodeRunner, Setup
from fibo_robot.interfaces import Policy, Task

# An episode that fails runs to its horizon; its first half minute shows where the policy looked.
DECISIONS = 60


def watch_episode(
    policy: Policy, task: Task, seed: int, trace: ActionTrace | None = None, decisions: int = DECISIONS
) -> list[list[SeenImage]]:
    """What each camera's encoder saw and attended to, decision by decision.

    Args:
        policy: see :func:`fibo_robot.envs.results.attention.overlay.look`; the episode's generator is reset.
        task: what is simulated.
        seed: the episode's.
        trace: its actions; without them only its first decision is seen.
        decisions: at most so many.

    Raises:
        OverlayError: the policy sees no pictures through an `ImageEncoder`.
    """
    runner = EpisodeRunner(Setup.of(task, policy.shape_meta, success_hold=None))
    try:
        observation = runner.handle(Begin(seed)).observation
        seen = []
        for chunk in (trace.chunks if trace else [None])[:decisions]:
            if observation is None:  # the episode is over
                break
            stacked = {key: torch.from_numpy(value)[None] for key, value in observation.items()}
            seen.append(look(policy, stacked, seed))
            if chunk is not None:
                observation = runner.handle(Act(chunk)).observation
    finally:
        runner.close()
    return seen


def record_attention(
    policy: Policy, task: Task, evaluation: Evaluation, folder: Path
) -> tuple[AttentionView, list[str]]:
    """Watch the attention over the first episode whose actions are known, and write a video of it.

    Args:
        policy: it must see pictures through an `ImageEncoder`.
        task: what is simulated.
        evaluation: its episodes; where no actions are known, the first one's beginning is shown.
        folder: where its action traces lie, and the videos go.

    Returns:
        what there is to show, and a sentence about every video that could not be written.
    """
    known = [(e.seed, e.action_trace) for e in evaluation.episodes if e.action_trace]
    seed = known[0][0] if known else evaluation.episodes[0].seed
    actions = ActionTrace.load(folder / known[0][1]) if known else None
    seen = watch_episode(policy, task, seed, actions)
    rate = max(1, round(task.control_freq / policy.shape_meta.n_action_steps))
    videos, problems = {}, []
    for camera, frames in attention_frames(seen).items():
        video = folder / VIDEO_FOLDER / f"attention_seed_{seed:06d}_{camera}.mp4"
        try:
            write_video(video, encode_mp4(frames, rate))
            videos[camera] = video
        except VideoWriteError as error:
            problems.append(str(error))
    return AttentionView(seed, seen[0], image_encoders(policy), videos), problems


def attention_frames(seen: Sequence[Sequence[SeenImage]], layer: int = -1) -> dict[str, list[np.ndarray]]:
    """Each camera's video, uint8 frames `(H, W, 3)` of even sides: its pictures under the heads' mean."""
    frames_of: dict[str, list[np.ndarray]] = {}
    for cameras in seen:
        for image in cameras:
            frame = image.overlay(layer)
            even = [(0, side % 2) for side in frame.shape[:2]]  # as yuv420p needs
            frames_of.setdefault(image.camera, []).append(np.pad(frame, (*even, (0, 0))))
    return frames_of
