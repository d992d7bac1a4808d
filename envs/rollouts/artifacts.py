"""What is kept of an episode beside its row: its video and its actions, as files in the evaluation's folder.

A full disk costs a video or an action trace, never an episode.
"""

from dataclasses import replace
from pathlib import Path

from fibo_robot.envs.rollouts.action_trace import ACTION_TRACE_FOLDER, ActionTrace, action_trace_name
from fibo_robot.envs.rollouts.engine import Finished
from fibo_robot.envs.rollouts.episodes import Episode
from fibo_robot.envs.rollouts.videos import VIDEO_FOLDER, VideoWriteError, video_name, write_video


def store(finished: Finished, folder: Path) -> Episode:
    """Write an episode's video and actions; its row then says where they are, or why they are missing."""
    episode = finished.episode
    if finished.video is not None:
        episode = _with_video(episode, finished.video, folder)
    if finished.actions is not None:
        episode = _with_actions(episode, finished.actions, folder)
    return episode


def _with_video(episode: Episode, video: bytes, folder: Path) -> Episode:
    name = video_name(episode.seed, episode.success_once, episode.error is not None)
    try:
        write_video(folder / VIDEO_FOLDER / name, video)
    except VideoWriteError as error:
        return replace(episode, video_error=str(error))
    return replace(episode, video=f"{VIDEO_FOLDER}/{name}")


def _with_actions(episode: Episode, actions: ActionTrace, folder: Path) -> Episode:
    name = action_trace_name(episode.seed)
    try:
        actions.save(folder / ACTION_TRACE_FOLDER / name)
    except OSError as error:
        reason = error.strerror or error
        return replace(episode, action_trace_error=f"The action trace {name} could not be written: {reason}.")
    return replace(episode, action_trace=f"{ACTION_TRACE_FOLDER}/{name}")
