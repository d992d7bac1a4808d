"""Small video classifiers with random weights, saved by transformers as those on the Hub are."""

import json
from pathlib import Path
from typing import Any

LABELS = ["abseiling", "air drumming", "zumba"]
FAMILIES = ("videomae", "timesformer", "vivit", "vjepa2")
_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,  # so that scores are far apart
}


def save_published(folder: Path, family: str) -> Path:
    """Save a classifier of a family, with its preprocessing, into a folder."""
    import transformers

    labels: dict[str, Any] = {"id2label": dict(enumerate(LABELS))}
    clip = {"image_size": 32, "num_frames": 4}
    cut = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    if family == "videomae":
        config = transformers.VideoMAEConfig(**_SIZES, **clip, patch_size=8, **labels)
        model = transformers.VideoMAEForVideoClassification(config)
        processor = transformers.VideoMAEVideoProcessor(**cut)
    elif family == "timesformer":
        config = transformers.TimesformerConfig(**_SIZES, **clip, patch_size=8, **labels)
        model = transformers.TimesformerForVideoClassification(config)
        processor = transformers.TimesformerVideoProcessor(**cut)
    elif family == "vivit":
        config = transformers.VivitConfig(**_SIZES, **clip, tubelet_size=[2, 8, 8], **labels)
        model = transformers.VivitForVideoClassification(config)
        processor = transformers.VivitVideoProcessor(**{**cut, "size": {"shortest_edge": 37}})
    else:
        sizes = {key: value for key, value in _SIZES.items() if key != "intermediate_size"}
        config = transformers.VJEPA2Config(
            **{**sizes, "hidden_size": 48},
            crop_size=32,
            patch_size=8,
            frames_per_clip=4,
            num_pooler_layers=1,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            **labels,
        )
        model = transformers.VJEPA2ForVideoClassification(config)
        processor = transformers.VJEPA2VideoProcessor(crop_size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def as_published_before(folder: Path) -> None:
    """Name the preprocessing as checkpoints did before there were video processors, and most still do."""
    path = folder / "video_preprocessor_config.json"
    kept = ("do_resize", "size", "do_center_crop", "crop_size", "do_normalize", "image_mean", "image_std")
    values = {key: value for key, value in json.loads(path.read_text()).items() if key in kept}
    path.unlink()
    text = json.dumps({**values, "image_processor_type": "VideoMAEImageProcessor"})
    (folder / "preprocessor_config.json").write_text(text)
