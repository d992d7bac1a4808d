"""Visual encoders: images or clips in, tokens and a pooled vector out, with any of our attentions inside."""

import fibo_robot.lean_timm  # noqa: F401  # before anything else imports timm
from fibo_robot.encoders.image import PRESETS, EncoderOutput, ImageEncoder, create_encoder
from fibo_robot.encoders.normalise import EncoderError
from fibo_robot.encoders.video import VideoEncoder, create_video_encoder
from fibo_robot.encoders.weights import WeightsError, WeightsReport, load_weights
from fibo_robot.plugins import register

for _create in (create_encoder, create_video_encoder):
    register(_create, f"fibo_robot.encoders.{_create.__name__}")

__all__ = [
    "PRESETS",
    "EncoderError",
    "EncoderOutput",
    "ImageEncoder",
    "VideoEncoder",
    "WeightsError",
    "WeightsReport",
    "create_encoder",
    "create_video_encoder",
    "load_weights",
]
