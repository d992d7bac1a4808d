"""Every model that a config of ours describes can be loaded by a process that only imported the loaders."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parents[2] / "conf"
ASK = """
import sys
from fibo_robot.plugins import is_registered
from fibo_robot.policies import load_policy
from fibo_robot.video import load_classifier
from fibo_robot.video.images.predict import load_image_classifier
print("\\n".join(target for target in sys.argv[1:] if not is_registered(target)))
"""


def targets(node: Any) -> set[str]:
    """All that a part of a config calls."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {node["_target_"]} if isinstance(node, dict) and "_target_" in node else set()
    return own.union(*map(targets, children))


def test_a_new_process_knows_all_models_that_configs_describe() -> None:
    read = {path: yaml.safe_load(path.read_text()) for path in CONF.glob("*/*.yaml")}
    models = [content for path, content in read.items() if path.parent.name in ("encoder", "policy")]
    models += [content["classifier"] for path, content in read.items() if path.parent.name == "classifier"]
    wanted = sorted(set().union(*map(targets, models)))
    assert "fibo_robot.video.attentive_probe.AttentiveProbe" in wanted and len(wanted) > 8
    done = subprocess.run([sys.executable, "-c", ASK, *wanted], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
