"""The attention shown is the attention used, for every kind of attention."""

import pytest
import torch
from torch import nn

from fibo_robot.attention.maps import OverlayError
from fibo_robot.encoders import create_encoder
from fibo_robot.envs.results.attention.overlay import image_encoders, look
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta


class TwoCameras(nn.Module):
    """The least that `look` needs of a policy."""

    def __init__(self, attention):
        super().__init__()
        spec = ObservationSpec((3, 84, 84), "rgb")
        self.shape_meta = ShapeMeta(
            {"left_image": spec, "right_image": spec}, ActionSpec(1, (-1,), (1,), arms=0)
        )
        self.encoders = nn.ModuleDict(
            {key: create_encoder("vit_micro", attention=attention) for key in self.shape_meta.obs}
        ).eval()

    def image_encoders(self):
        return dict(self.encoders.items())

    def reset(self, episodes):
        pass

    def forget(self, episodes):
        pass

    def act(self, obs, episodes):
        for key, encoder in self.encoders.items():
            encoder(obs[key][:, -1])
        return torch.zeros(1, 1, 1)


def observation():
    return {
        key: torch.randint(0, 256, (1, 1, 3, 84, 84), dtype=torch.uint8)
        for key in ("left_image", "right_image")
    }


@pytest.mark.parametrize("attention", ["softmax", "fibottention", "castling"])
def test_every_layer_and_head_of_every_camera_can_be_laid_over_its_picture(attention):
    policy, obs = TwoCameras(attention), observation()
    seen = look(policy, obs)
    assert [image.camera for image in seen] == ["left_image", "right_image"]
    for image in seen:
        assert (image.image == obs[image.camera][0, 0].permute(1, 2, 0).numpy()).all()
        assert [tuple(weights.shape) for weights in image.weights] == [(4, 50, 50)] * 4
        for head in (None, 0, 3):
            assert image.heat(-1, head).shape == (7, 7)
            assert image.overlay(0, head).shape == (336, 336, 3)
    assert (seen[0].heat(0, 0) != seen[0].heat(0, 1)).any()
    with pytest.raises(OverlayError, match="4 layers of 4 heads"):
        seen[0].heat(0, 4)


def test_looking_leaves_the_policy_as_it_was():
    policy, obs = TwoCameras("fibottention"), observation()
    before = policy.encoders["left_image"](obs["left_image"][:, -1]).tokens
    look(policy, obs)
    assert torch.equal(policy.encoders["left_image"](obs["left_image"][:, -1]).tokens, before)
    assert not any(module._forward_pre_hooks for module in policy.modules())


def test_a_policy_that_names_no_encoder_is_refused():
    class Blind:
        shape_meta = ShapeMeta({}, action=ActionSpec.deltas())

        def reset(self, episodes):
            pass

        def act(self, obs, episodes):
            return torch.zeros(1, 1, 1)

        def forget(self, episodes):
            pass

    assert image_encoders(Blind()) == {}
    with pytest.raises(OverlayError, match="no image encoder"):
        look(Blind(), {})
