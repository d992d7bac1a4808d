"""What importing timm without PyTorch's compiler leaves as it was, seen in a process of its own."""

import subprocess
import sys

import torch

from fibo_robot.attention.compiling import constant_result

PROGRAM = """
import sys
import torch.compiler

at_once = torch.compiler.disable
import fibo_robot.encoders

assert torch.compiler.disable is at_once
assert {"timm", "torchvision"} <= sys.modules.keys()
assert not [name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))]

# torchvision's function finds the compiler when it asks for it ...
asks = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert "torch._dynamo" not in sys.modules
answer = asks("cpu")
assert answer == sys.modules["torch._dynamo.utils"].is_compile_supported("cpu")
assert torch._dynamo.utils.counters is not None

# ... and what it marks as not to be compiled is left out of graphs.
from torchvision import tv_tensors
picture = torch.ones(1, 2, 2)
image = tv_tensors.Image(picture)
def add_one(x):
    return tv_tensors.wrap(x + 1, like=image)
assert torch.equal(torch.compile(add_one, backend="eager")(picture), picture + 1)
torch._dynamo.reset()
try:
    torch.compile(add_one, backend="eager", fullgraph=True)(picture)
except torch._dynamo.exc.Unsupported as refused:
    assert "`wrap`" in str(refused), refused
else:
    raise AssertionError("wrap was compiled")
"""


def test_the_compiler_comes_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_constant_result_is_marked_as_pytorch_marks_it() -> None:
    def ours() -> int:
        return 1

    def theirs() -> int:
        return 1

    assert vars(constant_result(ours)) == vars(torch.compiler.assume_constant_result(theirs))
