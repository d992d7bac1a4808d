"""What torch.compile is told about our functions."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant_result(function: Function) -> Function:
    """Mark a function's result as a constant of the compiled graph.

    As `torch.compiler.assume_constant_result`, which imports all of the compiler to set this one attribute.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function
