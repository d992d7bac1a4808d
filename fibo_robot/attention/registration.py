"""How this package's operators become PyTorch's: a kernel per device, shapes for tracing, a derivative.

By `torch.library.Library` and an autograd function of their own, not by `custom_op`, and with `int[]` where
PyTorch would infer `SymInt[]` from types: on short sequences an operator's price is what Python does around
its kernel. Diagonal attention, forward and backward, costs 67 microseconds beside its kernels that way
instead of 150 (one core of an Intel Xeon).
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fibo_robot.attention.errors import AttentionError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_library = torch.library.Library("fibo_robot", "FRAGMENT")


def define_operator(
    schema: str,
    *,
    on_cpu: Callable[..., Any],
    on_cuda: Callable[..., Any],
    fake: Callable[..., Any],
    anywhere: Callable[..., Any] | None = None,
    derivative: type[torch.autograd.Function] | None = None,
    refusal: str | None = None,
) -> None:
    """Define `fibo_robot::NAME`.

    Args:
        schema: `NAME(arguments) -> results`, in PyTorch's language for them.
        on_cpu, on_cuda: the kernels.
        fake: results of the right shape, strides and type, for what is traced.
        anywhere: the kernel on other devices; without it there is none.
        derivative: an autograd function that calls the operator by :func:`below_autograd`.
        refusal: instead of a derivative, what the error says to whoever asks for one. Without either, the
            operator is for calls without gradients.
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    operator = getattr(torch.ops.fibo_robot, name).default
    if anywhere is not None:
        _library.impl(name, anywhere, "CompositeExplicitAutograd")
    _library.impl(name, on_cpu, "CPU")
    _library.impl(name, on_cuda, "CUDA")
    torch.library.register_fake(f"fibo_robot::{name}", fake, lib=_library)

    def under_autograd(*given: Any) -> Any:
        _refuse_other_derivatives(name, given)
        if not _needs_gradient(given):
            return below_autograd(operator, *given)
        return derivative.apply(*given) if derivative else _Refused.apply(operator, refusal, *given)

    if derivative or refusal:
        _library.impl(name, under_autograd, "Autograd")


def below_autograd(operator: Callable[..., Any], *given: Any) -> Any:
    """Call an operator's kernel for the device."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*given)


def without_autocast(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A kernel, its first argument a tensor, in whose matrix products autocast changes no precision.

    An operator's kernel runs with the caller's autocast on, its backward pass with none: the two would weigh
    pairs differently.
    """

    @wraps(kernel)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensor: Any = args[0]
        if not torch.is_autocast_enabled(tensor.device.type):
            return kernel(*args, **kwargs)
        with torch.autocast(tensor.device.type, enabled=False):
            return kernel(*args, **kwargs)

    return call


class _Refused(torch.autograd.Function):
    """An operator without a derivative."""

    @staticmethod
    def forward(ctx: Any, operator: Callable[..., Any], refusal: str, *given: Any) -> Any:
        ctx.refusal = refusal
        return below_autograd(operator, *given)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        raise AttentionError(ctx.refusal)


def _refuse_other_derivatives(name: str, given: Sequence[Any]) -> None:
    """Else PyTorch takes the derivative in forward mode of an operator that does not know it for zero."""
    forward = forward_ad._current_level >= 0 and any(
        isinstance(one, Tensor) and forward_ad.unpack_dual(one).tangent is not None for one in given
    )
    if forward or (torch._C._are_functorch_transforms_active() and _needs_gradient(given)):
        raise AttentionError(
            f"fibo_robot::{name} is differentiated by backward() and torch.autograd.grad alone, neither in "
            "forward mode (jvp) nor by torch.func. Fibottention is under force_backend('reference')."
        )


def _needs_gradient(given: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in given)
