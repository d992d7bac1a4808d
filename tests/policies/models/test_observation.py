"""How a policy sees: crops and colours of a history, readouts of tokens, encoders of cameras."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import pytest
import torch

from fibo_robot.encoders import ImageEncoder, VideoEncoder, create_encoder, create_video_encoder
from fibo_robot.envs.tasks import get_task
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.models.bc import BehaviourCloning
from fibo_robot.policies.models.observation import (
    CropRandomizer,
    Jitter,
    ObservationEncoder,
    ObservationError,
)
from fibo_robot.policies.models.observation.readout import (
    ClassToken,
    PatchMean,
    PatchProjection,
    SpatialSoftmax,
)
from fibo_robot.policies.models.observation.resnet import ResNetEncoder
from fibo_robot.training.module import parameter_groups

CAMERAS = ["agentview_image", "robot0_eye_in_hand_image"]
vit = partial(create_encoder, "vit_micro", attention="fibottention")


def meta(steps: int = 1, keys: list[str] = CAMERAS) -> ShapeMeta:
    return get_task("lift").shape_meta([*keys, "robot0_eef_pos"], steps)


def observations(shape_meta: ShapeMeta, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    steps = shape_meta.n_obs_steps
    return {
        key: torch.randint(0, 256, (batch, steps, 3, 84, 84), dtype=torch.uint8, generator=generator)
        if spec.kind == "rgb"
        else torch.randn(batch, steps, *spec.shape, generator=generator)
        for key, spec in shape_meta.obs.items()
    }


def test_training_crops_move_and_evaluation_crops_are_central() -> None:
    images = torch.arange(84 * 84).reshape(1, 1, 1, 84, 84).expand(16, 2, 3, 84, 84)
    crop = CropRandomizer(72)
    cropped = crop(images)
    assert cropped.shape == (16, 2, 3, 72, 72)
    corners = cropped[:, 0, 0, 0, 0]
    assert len(corners.unique()) > 4
    rows, columns = corners // 84, corners % 84
    assert (rows <= 12).all() and (columns <= 12).all()
    assert torch.equal(cropped[:, 1], cropped[:, 0]), "a history is one scene"
    assert torch.equal(cropped[0, 0, 0].diff(dim=1), torch.ones(72, 71, dtype=torch.long))
    assert torch.equal(crop.eval()(images), images[..., 6:78, 6:78])


def test_colours_move_together_over_a_history_in_training_and_not_at_all_in_evaluation() -> None:
    images = torch.full((8, 3, 3, 6, 6), 100, dtype=torch.uint8)
    jitter = Jitter(brightness=0.5)
    shifted = jitter(images)
    assert shifted.shape == images.shape and shifted.dtype == torch.uint8
    assert torch.equal(shifted[:, 0], shifted[:, 2]) and len(shifted[:, 0, 0, 0, 0].unique()) > 4
    assert (shifted >= 50).all() and (shifted <= 150).all()
    assert torch.equal(jitter.eval()(images), images) and torch.equal(Jitter()(images), images)
    torch.manual_seed(3)
    first = jitter.train()(images)
    torch.manual_seed(3)
    assert torch.equal(jitter(images), first)


def test_spatial_softmax_is_the_mean_place_under_a_softmax() -> None:
    readout = SpatialSoftmax(embed_dim=5, grid_size=(3, 4), num_prefix_tokens=1, keypoints=2)
    tokens = torch.randn(2, 13, 5)
    features = readout(tokens)
    logits = readout.keypoints(tokens[:, 1:])
    for sample in range(2):
        for keypoint in range(2):
            weights = torch.softmax(logits[sample, :, keypoint], 0).view(3, 4)
            x = weights.sum(0) @ torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0])
            y = weights.sum(1) @ torch.tensor([-1.0, 0.0, 1.0])
            torch.testing.assert_close(features[sample, 2 * keypoint : 2 * keypoint + 2], torch.stack([x, y]))


def test_spatial_softmax_is_robomimics() -> None:
    base_nets = pytest.importorskip("robomimic.models.base_nets")
    theirs = base_nets.SpatialSoftmax(input_shape=[5, 3, 4], num_kp=6)
    ours = SpatialSoftmax(embed_dim=5, grid_size=(3, 4), num_prefix_tokens=0, keypoints=6)
    with torch.no_grad():
        theirs.nets.weight.copy_(ours.keypoints.weight.view(6, 5, 1, 1))
        theirs.nets.bias.copy_(ours.keypoints.bias)
    maps = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(ours(maps.flatten(2).transpose(1, 2)), theirs(maps).flatten(1))


@pytest.mark.parametrize(
    ("readout", "per_camera"),
    [
        (partial(PatchProjection, features=4), lambda tokens, read: read.projection(tokens[1:]).flatten()),
        (PatchMean, lambda tokens, read: tokens[1:].mean(0)),
        (ClassToken, lambda tokens, read: tokens[0]),
        (SpatialSoftmax, lambda tokens, read: read(tokens[None])[0]),
    ],
)
def test_features_are_what_is_read_of_each_step_and_camera(
    readout: Callable[..., Any], per_camera: Callable[..., torch.Tensor]
) -> None:
    shape_meta = meta(steps=2)
    encoder = ObservationEncoder(shape_meta, vit, readout=readout).eval()
    obs = observations(shape_meta)
    features = encoder(obs)
    assert features.shape == (2, 2, encoder.out_features)
    (tokens, _) = cast(ImageEncoder, encoder.encoder(CAMERAS[1]))(obs[CAMERAS[1]][1, :1, :, 6:78, 6:78])
    width = (encoder.out_features - 64) // 2
    expected = per_camera(tokens[0], encoder.readouts[CAMERAS[1]])
    torch.testing.assert_close(features[1, 0, width : 2 * width], expected, atol=1e-5, rtol=1e-4)


def test_cameras_may_share_an_encoder_and_keep_readouts_of_their_own() -> None:
    separate, shared = (ObservationEncoder(meta(), vit, shared=shared) for shared in (False, True))
    assert separate.encoder(CAMERAS[0]) is not separate.encoder(CAMERAS[1])
    assert shared.encoder(CAMERAS[0]) is shared.encoder(CAMERAS[1])
    assert len(shared.encoders) == 1 and len(shared.readouts) == 2
    assert list(separate.image_encoders()) == CAMERAS and list(shared.image_encoders()) == CAMERAS[1:]
    assert shared(observations(meta())).shape == (2, 1, shared.out_features)


def test_a_frozen_encoder_does_not_learn_and_stays_in_evaluation_mode() -> None:
    encoder = ObservationEncoder(meta(), partial(vit, drop_path_rate=0.5), frozen=True).train()
    encoder(observations(meta())).sum().backward()
    learns = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert learns == {name for name, _ in encoder.named_parameters() if not name.startswith("encoders.")}
    assert not any(module.training for module in encoder.encoders.modules()) and encoder.crop.training


def test_low_dimensional_keys_may_pass_as_they_are() -> None:
    shape_meta = meta(keys=[])
    encoder = ObservationEncoder(shape_meta, None, low_dim_features=None)
    obs = observations(shape_meta)
    assert torch.equal(encoder(obs), obs["robot0_eef_pos"])


@pytest.mark.parametrize("mode", ["divided", "joint"])
def test_a_video_encoder_sees_the_steps_as_one_clip(mode: Any) -> None:
    shape_meta = meta(steps=4, keys=CAMERAS[:1])
    clip = partial(create_video_encoder, "vit_micro", mode=mode, frames=4, attention="fibottention")
    torch.manual_seed(0)
    encoder = ObservationEncoder(shape_meta, clip).eval()
    video = encoder.encoder(CAMERAS[0])
    assert isinstance(video, VideoEncoder)
    for branch in video.temporal if mode == "divided" else []:  # zeros at the start: frames would not meet
        torch.nn.init.normal_(cast(Any, branch).proj.weight, std=0.5)
    obs = observations(shape_meta)
    features = encoder(obs)
    assert features.shape == (2, 4, 36 * 16 + 64)
    changed: Mapping[str, torch.Tensor] = {**obs, CAMERAS[0]: obs[CAMERAS[0]].clone()}
    changed[CAMERAS[0]][:, 3] = 0
    assert (encoder(changed)[:, 0] - features[:, 0]).abs().max() > 1e-4, "an earlier step knows of the last"


def test_a_video_encoder_that_does_not_fit_the_steps_is_refused() -> None:
    shape_meta = meta(steps=2, keys=CAMERAS[:1])
    for options in ({"frames": 4}, {"frames": 2, "tubelet": 2}):
        with pytest.raises(ObservationError, match=r"encoder\.frames=2 .*encoder\.tubelet=1"):
            ObservationEncoder(shape_meta, partial(create_video_encoder, "vit_micro", **options))
    clip = partial(create_video_encoder, "vit_micro", frames=2)
    with pytest.raises(ObservationError, match="belongs to a whole clip"):
        ObservationEncoder(shape_meta, clip, readout=ClassToken)


def test_resnet18_is_torchvisions_up_to_its_last_feature_map() -> None:
    from torchvision.models import resnet18

    encoder = ResNetEncoder(image_size=76, norm="batch").eval()
    theirs = resnet18().eval()
    theirs.load_state_dict(
        {**encoder.trunk.state_dict(), **{k: v for k, v in theirs.state_dict().items() if "fc" in k}}
    )
    images = torch.randint(0, 256, (2, 3, 76, 76), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    maps = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for layer in list(theirs.children())[:-2]:
        maps = layer(maps)
    tokens, pooled = encoder(images)
    assert tokens.shape == (2, 9, 512) and encoder.grid_size == (3, 3)
    torch.testing.assert_close(tokens, maps.flatten(2).transpose(1, 2))
    torch.testing.assert_close(pooled, maps.mean((2, 3)))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in ResNetEncoder(76).modules())
    with pytest.raises(ObservationError, match=r"encoder\.norm=batch"):
        ResNetEncoder(76, pretrained=True)


def test_layer_decay_slows_the_encoders_deeper_layers_alike_in_every_camera() -> None:
    policy = BehaviourCloning(meta(), vit)
    groups = parameter_groups(policy, weight_decay=0.1, layer_decay=0.5)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(list(policy.parameters()))

    def of(name: str) -> float:
        return scale[id(policy.get_parameter(name))]

    for camera in CAMERAS:
        trunk = f"observation.encoders.{camera}.vit"
        assert [of(f"{trunk}.blocks.{i}.attn.qkv.weight") for i in range(4)] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
        assert of(f"{trunk}.patch_embed.proj.weight") == of(f"{trunk}.pos_embed") == 1 / 32
        assert of(f"{trunk}.norm.weight") == 1 / 2
    assert of("observation.readouts.agentview_image.projection.weight") == of("head.network.0.weight") == 1
