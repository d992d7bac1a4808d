"""Video: decoding, clip sampling, datasets, classifiers and prediction."""

from fibo_robot.video.inference.predict import load_classifier, predict
from fibo_robot.video.reading.reader import VideoDecodeError, VideoReader

__all__ = ["VideoDecodeError", "VideoReader", "load_classifier", "predict"]
