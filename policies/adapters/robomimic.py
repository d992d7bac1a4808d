"""Our encoders inside robomimic's own algorithms (BC, BC-RNN, BC-Transformer, ...).

robomimic looks a backbone's class name up in the module `robomimic.models.obs_core`. After
`register_backbone()` its configs may say

    "core_class": "VisualCore",
    "core_kwargs": {"backbone_class": "FiboBackbone",
                    "backbone_kwargs": {"image_size": 76, "attention": "fibottention"},
                    "pool_class": null, "feature_dimension": 64}

and robomimic's own training script, started through this module, trains it:

    python -m fibo_robot.policies.adapters.robomimic --config bc.json --dataset demos.hdf5
"""

import runpy
import sys

from robomimic.models import obs_core
from robomimic.models.base_nets import ConvBase
from torch import Tensor

from fibo_robot.encoders import create_encoder


class FiboBackbone(ConvBase):
    """An image encoder as a robomimic backbone; its features are the pooled tokens.

    Args:
        input_channel: given by robomimic; must be 3.
        image_size: side of the (cropped) images.
        name: any encoder that `create_encoder` knows.
        attention: any registered attention.
        pretrained: see `create_encoder`.
    """

    def __init__(
        self,
        input_channel: int = 3,
        image_size: int = 76,
        name: str = "vit_micro",
        attention: str = "fibottention",
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        if input_channel != 3:
            raise ValueError(f"FiboBackbone sees RGB images (3 channels), not {input_channel} channels.")
        self.encoder = create_encoder(name, attention=attention, pretrained=pretrained, image_size=image_size)

    def output_shape(self, input_shape: list[int]) -> list[int]:
        """Shape of the features, without batch."""
        return [self.encoder.embed_dim]

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, H, W), float in [0, 1] as robomimic gives them, to features (B, D)."""
        return self.encoder(inputs).pooled


def register_backbone() -> None:
    """Make `FiboBackbone` known to robomimic's VisualCore."""
    obs_core.FiboBackbone = FiboBackbone  # pyright: ignore[reportAttributeAccessIssue]  (looked up there by name)


if __name__ == "__main__":
    register_backbone()
    printed = sys.stdout
    try:
        runpy.run_module("robomimic.scripts.train", run_name="__main__")
    finally:
        printed.flush()  # the script puts a logger in its place, and Python would flush that one alone
