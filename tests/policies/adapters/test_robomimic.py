import json

import torch


def test_robomimics_own_bc_trains_on_our_encoder():
    from robomimic.algo import algo_factory
    from robomimic.config import config_factory
    from robomimic.utils import obs_utils

    from fibo_robot.policies.adapters.robomimic import FiboBackbone, register_backbone

    register_backbone()
    config = config_factory("bc")
    with config.values_unlocked():
        config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
        config.observation.modalities.obs.rgb = ["agentview_image"]
        config.observation.encoder.rgb.core_class = "VisualCore"
        core = {
            "backbone_class": "FiboBackbone",
            "backbone_kwargs": {"image_size": 84, "attention": "fibottention"},
            "pool_class": None,
            "feature_dimension": 32,
        }
        config.observation.encoder.rgb.core_kwargs = json.loads(json.dumps(core))
        config.algo.gmm.enabled = True
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = {"agentview_image": [3, 84, 84], "robot0_eef_pos": [3]}
    algo = algo_factory("bc", config, obs_key_shapes=shapes, ac_dim=7, device=torch.device("cpu"))
    assert any(isinstance(module, FiboBackbone) for module in algo.nets.modules())
    batch = {
        "obs": {"agentview_image": torch.rand(4, 3, 84, 84), "robot0_eef_pos": torch.randn(4, 3)},
        "goal_obs": None,
        "actions": torch.rand(4, 7) * 2 - 1,
    }
    algo.set_train()
    losses = [float(algo.train_on_batch(batch, epoch=0)["losses"]["action_loss"]) for _ in range(4)]
    assert losses[-1] < losses[0]
