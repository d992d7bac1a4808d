"""Video: decoding, clip sampling, datasets, classifiers and prediction."""

from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.inference.predict import load_classifier, predict

__all__ = ["VideoDecodeError", "VideoReader", "load_classifier", "predict"]
