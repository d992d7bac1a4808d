"""Every classifier's experiment describes a model, data and an optimiser that can be built."""

import pytest
import torch
from omegaconf import OmegaConf

from fibo_robot.training.build import build
from fibo_robot.training.config import compose_config, options_of
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.images.classifier import ImageClassifier
from fibo_robot.video.images.data import ImageData
from fibo_robot.video.training.data import VideoData

CLASSIFIERS = {
    name: config.classifier.classifier._target_.rsplit(".", 1)[1]
    for name in options_of("experiment")
    if "classifier" in (config := compose_config([f"experiment={name}"]))
}
RECIPES = [name for name, model in CLASSIFIERS.items() if model == "VideoClassifier"]
IMAGE_RECIPES = [name for name, model in CLASSIFIERS.items() if model == "ImageClassifier"]


def recipe(name: str, *more: str):
    return compose_config([f"experiment={name}", "data.root=absent", "encoder.pretrained=false", *more])


def classifier(name: str, classes: int) -> VideoClassifier:
    """The experiment's model on the meta device: shapes without weights."""
    with torch.device("meta"):
        return build(recipe(name).classifier.classifier, labels=[str(number) for number in range(classes)])


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_describe_what_can_be_built(name: str) -> None:
    config = recipe(name)
    assert config.name == name
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    model = classifier(name, 10)
    data = build(config.data)
    build(config.optimizer)
    build(config.classifier.augmentation)
    assert isinstance(data, VideoData)
    assert data.sampling.frames == model.encoder.frames
    assert (data.image_size, data.image_size) == model.encoder.image_size


@pytest.mark.parametrize("name", IMAGE_RECIPES)
def test_image_recipes_describe_what_can_be_built(name: str) -> None:
    config = recipe(name)
    assert config.name == name
    with torch.device("meta"):
        model = build(config.classifier.classifier, labels=["cat", "dog"])
    data = build(config.data)
    build(config.optimizer)
    build(config.classifier.augmentation)
    assert isinstance(data, ImageData) and isinstance(model, ImageClassifier)
    assert (data.image_size, data.image_size) == model.encoder.image_size
    patches = {"cifar10": 64}.get(name, 196)
    assert model.encoder.num_patches == patches
    assert 45_000 - data.batch_size < data.batch_size * data.steps_per_epoch < 45_000 + data.batch_size


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("timesformer_kinetics400", 400, 121.4),  # arXiv 2102.05095, table 1
        ("videomae_ssv2", 174, 87),  # arXiv 2203.12602
    ],
)
def test_models_have_the_published_number_of_parameters(name: str, classes: int, millions: float) -> None:
    parameters = sum(parameter.numel() for parameter in classifier(name, classes).parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "frames", "rate"),
    [
        ("timesformer_kinetics400", 8, 32),
        ("timesformer_smarthome", 8, 32),
        ("timesformer_nucla", 16, 4),
        ("timesformer_ntu60", 8, 32),
    ],
)
def test_clips_are_as_the_papers_write_them(name: str, frames: int, rate: int) -> None:
    sampling = recipe(name).data.sampling
    assert (sampling.kind, sampling.frames, sampling.rate) == ("dense", frames, rate)


def test_small_sets_use_sparse_attention_over_space_alone() -> None:
    encoder = recipe("timesformer_smarthome").encoder
    assert (encoder.attention.name, encoder.temporal_attention, encoder.mode) == (
        "fibottention",
        "softmax",
        "divided",
    )
