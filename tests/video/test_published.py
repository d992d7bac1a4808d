"""Classifiers as transformers publishes them: of the same frames, the scores that its own pipeline gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fibo_robot.video import load_classifier, predict
from fibo_robot.video.decode import VideoReader
from fibo_robot.video.inference.predict import view_scores
from fibo_robot.video.inference.swapped import swap_and_compare
from fibo_robot.video.inference.views import read_views
from fibo_robot.video.published import PublishedClassifier, PublishedError
from fibo_robot.video.training.sampling import ClipSampling, SamplingError
from tests.hub.server import Hub
from tests.video.clips import write_video
from tests.video.command_line import run
from tests.video.published_models import FAMILIES, LABELS, as_published_before, save_published

pytestmark = pytest.mark.transformers


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return {family: save_published(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # 71 pixels wide, so that the middle of the scaled picture lies between two pixels.
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 72, 3)).astype(np.uint8)
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def published_scores(folder: Path, clip: Path, sampling: ClipSampling) -> torch.Tensor:
    """What transformers computes of the frames of a clip, by its own preprocessing and model."""
    import transformers

    reader = VideoReader(clip)
    frames = reader.read(sampling.views(len(reader))[0])
    model: Any = transformers.AutoModelForVideoClassification.from_pretrained(folder)
    processor: Any = transformers.AutoVideoProcessor.from_pretrained(folder)
    with torch.inference_mode():
        return model.eval()(**processor(list(frames), return_tensors="pt")).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(published: dict[str, Path], clip: Path, family: str) -> None:
    classifier = load_classifier(published[family])
    assert classifier.labels == LABELS
    sampling = classifier.sampling.chosen("dense:3")
    expected = published_scores(published[family], clip, sampling)
    found = view_scores(classifier, read_views(clip, sampling, classifier.squares))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    other = view_scores(classifier, read_views(clip, sampling.chosen("uniform"), classifier.squares))
    assert (other - expected).abs().max() > 1e-2  # so the scores do depend on the frames


def test_preprocessing_of_before_video_processors_is_read(tmp_path: Path, clip: Path) -> None:
    folder = save_published(tmp_path, "timesformer")
    as_published_before(folder)
    classifier = load_classifier(folder)
    expected = published_scores(folder, clip, classifier.sampling)
    found = view_scores(classifier, read_views(clip, classifier.sampling, classifier.squares))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_views_and_crops_are_ours(published: dict[str, Path], clip: Path) -> None:
    classifier = load_classifier(published["vivit"])
    picture = VideoReader(clip).read([0])[0]
    squares = classifier.squares(picture, 3)
    assert squares.shape == (3, 3, 32, 32) and squares.dtype == torch.uint8
    assert torch.equal(squares[1], classifier.squares(picture)[0])
    assert not torch.equal(squares[0], squares[2])
    (prediction,) = predict(classifier, clip, views=2, crops=3)
    assert {score.label for score in prediction.scores} == set(LABELS)


def test_papers_say_which_frames(published: dict[str, Path]) -> None:
    found = {family: load_classifier(published[family]).sampling for family in FAMILIES}
    assert found == {
        "videomae": ClipSampling("dense", 4, 4),
        "timesformer": ClipSampling("dense", 4, 32),
        "vivit": ClipSampling("dense", 4, 2),
        "vjepa2": ClipSampling("uniform", 4),
    }
    with pytest.raises(SamplingError, match="dense:RATE"):
        found["vivit"].chosen("dense")


@pytest.mark.parametrize("family", ["videomae", "vivit"])
def test_swapped_attention_says_what_became_of_the_label(
    published: dict[str, Path], clip: Path, tmp_path: Path, family: str
) -> None:
    classifier = load_classifier(published[family])
    clips = read_views(clip, classifier.sampling, classifier.squares)
    before = view_scores(classifier, clips)
    (tmp_path / "empty.mp4").touch()
    text = swap_and_compare(classifier, "fibottention", [tmp_path / "empty.mp4", clip])
    after = view_scores(classifier, clips)
    assert not torch.allclose(before, after)
    for scores in (before, after):
        share, number = scores.softmax(-1)[0].max(0)
        assert f"{LABELS[number]!r} ({float(share):.1%})" in text
    assert text.startswith("2 attention layers are now fibottention.")


def test_command_classifies_from_the_hub_and_fetches_no_pickle(
    published: dict[str, Path], clip: Path, hub: Hub
) -> None:
    files = {path.name: path.read_bytes() for path in published["videomae"].iterdir()}
    hub.files["owner/model"] = {**files, "pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit"}
    status, out, errors = run("classify", "hf:owner/model", clip, "--json", "-", "--sampling", "dense:2")
    row = json.loads(out)
    assert status == 0 and {entry["label"] for entry in row["predictions"]} == set(LABELS)
    assert row["made_by"].startswith("model@") and "sampling=dense:2" in row["made_by"]
    assert not any(request.endswith((".bin", ".py")) for request in hub.requests)
    # The same as from the folder, which says which frames it takes by itself.
    status, out, errors = run("classify", published["videomae"], clip, "--json", "-")
    assert status == 0 and "4, 4 frames apart" in errors


def test_unusable_checkpoints_are_refused_with_a_reason(published: dict[str, Path], tmp_path: Path) -> None:
    def copy(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in published["videomae"].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    with pytest.raises(PublishedError, match="holds BertModel"):
        load_classifier(copy("other", model_type="bert", architectures=["BertModel"]))
    with pytest.raises(PublishedError, match="VideoMAEForPreTraining"):
        load_classifier(copy("headless", architectures=["VideoMAEForPreTraining"]))
    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(PublishedError, match=r"no model\.safetensors"):
        load_classifier(pickled)
    with pytest.raises(PublishedError, match="cannot load"):
        load_classifier(copy("wider", hidden_size=48))
    with pytest.raises(PublishedError, match=r"lacks \d+ of the weights"):
        load_classifier(copy("deeper", num_hidden_layers=3))
    (copy("damaged") / "config.json").write_text("{")
    with pytest.raises(PublishedError, match="damaged"):
        load_classifier(tmp_path / "damaged")


def test_a_model_of_several_labels_gives_each_its_own_probability(
    published: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "multi"
    shutil.copytree(published["videomae"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    classifier = load_classifier(folder)
    scores = torch.tensor([[0.0, 100.0, -100.0]])
    assert classifier.probabilities(scores).tolist() == [[0.5, 1, 0]]
    assert load_classifier(published["videomae"]).probabilities(scores).sum() == 1


def test_overlay_of_a_published_model_is_refused(
    published: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    from fibo_robot.errors import FiboError

    assert isinstance(load_classifier(published["videomae"]), PublishedClassifier)
    with pytest.raises(FiboError, match="--overlay"):
        run("classify", published["videomae"], clip, "--overlay", tmp_path / "o.mp4")
