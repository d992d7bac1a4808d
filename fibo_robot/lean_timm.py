"""timm and torchvision, imported without PyTorch's compiler.

While imported they ask for `torch._dynamo`: for a function that says whether a device can compile, and
to mark functions that are not to be compiled. Importing it takes longer than all the rest of them, a third of
what a command takes to its first answer. Here they get stand-ins that import it when they are called; whoever
compiles a model finds everything as it always is.

Importing this module does it, once, unless timm or the compiler is there already.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch.compiler
from torch._compile import _disable_dynamo  # torch.compiler.disable, importing the compiler when it is called

UTILITIES = "torch._dynamo.utils"


class _Utilities(ModuleType):
    """Stands for `torch._dynamo.utils` until something in it is really needed."""

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        """As the function it stands for."""
        return importlib.import_module(UTILITIES).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        """Whatever else another version of torchvision wants: the real one."""
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(UTILITIES, None)
        return getattr(importlib.import_module(UTILITIES), name)


@contextmanager
def _compiler_on_demand() -> Iterator[None]:
    def disable(
        fn: Callable[..., Any] | None = None, recursive: bool = True, *, reason: str | None = None
    ) -> Any:
        return _disable_dynamo(fn, recursive)

    at_once = torch.compiler.disable
    stand_in = sys.modules[UTILITIES] = _Utilities(UTILITIES)
    torch.compiler.disable = disable
    try:
        yield
    finally:
        torch.compiler.disable = at_once
        if sys.modules.get(UTILITIES) is stand_in:
            del sys.modules[UTILITIES]


if not {"timm", "torch._dynamo"} & sys.modules.keys():
    with _compiler_on_demand():
        import timm  # noqa: F401

        if "torchvision" in sys.modules:  # timm does without where it is not installed
            import torchvision.tv_tensors  # noqa: F401
