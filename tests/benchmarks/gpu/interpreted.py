"""Runs all of `fibo bench gpu` at tiny sizes on the CPU, where Triton's interpreter stands in for the GPU.

Run by test_gpu.py in a process of its own, because TRITON_INTERPRET must be set before Triton is
imported. Prints which packages it took, and the exit status that the command would have.
"""

import json
import sys
from pathlib import Path

from fibo_robot.benchmarks.gpu import angular, branch
from fibo_robot.benchmarks.gpu.correctness import CASES
from fibo_robot.benchmarks.gpu.plan import Sizes, run
from fibo_robot.benchmarks.gpu.speed import Rounds
from fibo_robot.benchmarks.gpu.summary import lines, verdict
from fibo_robot.benchmarks.gpu.training import TrainingCase
from fibo_robot.encoders.image import PRESETS, Preset
from tests.attention.backends.triton_cases import stand_in_for_the_cpu

TINY = Sizes(
    checks=tuple(CASES[:1]),
    angular_checks=(angular.AngularCase(2, 20, 16),),
    branch_checks=(branch.BranchCase(2, 17, 16),),
    lengths=((14, 1),),
    dtypes=("bfloat16",),
    heads=1,
    training=(TrainingCase("image", "one_layer", 24, 12, 1, 1),),
    worlds=(),
    rounds=Rounds(1, 0),
    step_rounds=Rounds(1, 0),
)

if __name__ == "__main__":
    PRESETS["one_layer"] = Preset(embed_dim=32, depth=1, num_heads=2)
    stand_in_for_the_cpu()
    results = run(Path(sys.argv[1]), 30, device="cpu", sizes=TINY, say=lambda line: None)
    packages = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps({"packages": packages, "lines": list(lines(results)), "verdict": verdict(results)}))
