"""The sparse operator under autograd, autocast, export and odd inputs, against the float64 reference."""

import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from fibo_robot.attention import (
    AttentionError,
    choose_backend,
    create_attention,
    diagonal_attention,
    force_backend,
)
from fibo_robot.attention.backends.numba import runner as numba_runner
from fibo_robot.attention.castling.branch import strongest_softmax
from fibo_robot.attention.sparse.diagonal import MASK_MODES
from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.attention.wythoff import OFFSET_RULES, head_offsets
from tests.properties import given, settings, st

BACKENDS = ["sdpa", "numba"]
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def relative_errors(backend, offsets, heads, tokens, head_dim, dtype, **options):
    """Relative error of the output and of the three gradients."""
    q, k, v = inputs = [torch.randn(2, heads, tokens, head_dim).to(dtype).requires_grad_() for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    upstream = torch.randn(2, heads, tokens, head_dim).to(dtype)
    out = diagonal_attention(q, k, v, offsets, backend=backend, **options)
    expected = reference_attention(exact[0], exact[1], exact[2], offsets, **options)
    assert out.dtype == dtype
    grads = torch.autograd.grad(out, inputs, upstream)
    expected_grads = torch.autograd.grad(expected, exact, upstream.double())
    pairs = zip((out, *grads), (expected, *expected_grads), strict=True)
    # Where a softmax over two keys cancels to almost nothing, rounding is compared with what came in instead.
    floor = 0.1 * float(upstream.double().norm())
    return [
        float((actual.detach().double() - wanted.detach()).norm() / wanted.detach().norm().clamp_min(floor))
        for actual, wanted in pairs
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask_mode", MASK_MODES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("heads", "patches", "prefix", "head_dim"), [(3, 150, 1, 64), (2, 67, 0, 20)])
def test_output_and_gradients_equal_the_reference(
    backend, mask_mode, dtype, heads, patches, prefix, head_dim
):
    errors = relative_errors(
        backend, head_offsets(patches, heads), heads, patches + prefix, head_dim, dtype,
        num_prefix_tokens=prefix, mask_mode=mask_mode,
    )  # fmt: skip
    assert max(errors) < TOLERANCES[dtype]


@settings(max_examples=40, deadline=None)
@given(
    patches=st.integers(1, 140),
    prefix=st.integers(0, 3),
    heads=st.integers(1, 5),
    head_dim=st.sampled_from([1, 8, 24, 64]),
    rule=st.sampled_from(OFFSET_RULES),
    mask_mode=st.sampled_from(MASK_MODES),
)
def test_numba_equals_the_reference_whatever_the_shape(patches, prefix, heads, head_dim, rule, mask_mode):
    torch.manual_seed(0)  # hypothesis repeats an example and must see the same numbers
    errors = relative_errors(
        "numba", head_offsets(patches, heads, rule), heads, patches + prefix, head_dim, torch.float32,
        num_prefix_tokens=prefix, mask_mode=mask_mode,
    )  # fmt: skip
    assert max(errors) < 3e-6  # where head_dim is 1, a gradient may be one rounded difference of two numbers


@pytest.mark.parametrize("logit", [-12.0, -20.0, -80.0])
@pytest.mark.parametrize("patches", [3, 8])  # all see all; each misses some
@pytest.mark.parametrize("prefix", [0, 1])
def test_zero_logit_is_exact_where_all_logits_are_very_negative(logit, patches, prefix):
    tokens, offsets = patches + prefix, [[0, 1, 2]]
    q, v = torch.ones(1, 1, tokens, 1), torch.randn(1, 1, tokens, 4)
    q = torch.cat([q, 0.1 * torch.randn(1, 1, tokens, 3)], dim=-1)
    k = torch.cat([torch.full((1, 1, tokens, 1), logit), torch.randn(1, 1, tokens, 3)], dim=-1)
    options: dict[str, Any] = {"num_prefix_tokens": prefix, "mask_mode": "zero_logit", "scale": 1.0}
    exact = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    rounded = [tensor.requires_grad_() for tensor in (q, k, v)]
    expected = reference_attention(exact[0], exact[1], exact[2], offsets, **options)
    out = diagonal_attention(q, k, v, offsets, backend="numba", **options)
    upstream = torch.randn(out.shape)
    pairs = [(out, expected)]
    pairs += zip(
        torch.autograd.grad(out, rounded, upstream),
        torch.autograd.grad(expected, exact, upstream.double()),
        strict=True,
    )
    for actual, wanted in pairs:
        # Logits of this size are rounded by |logit| times 6e-8 in float32, and keys are as large as they.
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-6 * abs(logit), atol=1e-6 * abs(logit))


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_stay_stable(backend):
    q = 60 * torch.randn(1, 2, 40, 16)
    expected = reference_attention(q.double(), q.double(), q.double(), [[0, 2], [1]], mask_mode="zero_logit")
    out = diagonal_attention(q, q, q, [[0, 2], [1]], mask_mode="zero_logit", backend=backend)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


def test_strided_inputs_are_taken_as_they_are():
    qkv = torch.randn(2, 50, 3, 4, 16)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    offsets = head_offsets(49, 4)
    strided = diagonal_attention(q, k, v, offsets, backend="numba")
    dense = diagonal_attention(q.contiguous(), k.contiguous(), v.contiguous(), offsets, backend="numba")
    assert torch.equal(strided, dense)


@pytest.mark.parametrize("threads_of", ["torch", "python"])
def test_result_does_not_depend_on_the_number_of_threads(threads_of, monkeypatch):
    if threads_of == "python":  # where PyTorch's OpenMP runtime cannot be asked
        monkeypatch.setattr(numba_runner, "_team", lambda: None)
    q, k, v = inputs = [torch.randn(1, 3, 400, 24, requires_grad=True) for _ in range(3)]
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out = diagonal_attention(q, k, v, head_offsets(399, 3), backend="numba")
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_operator_is_well_formed():
    q, k, v = (torch.randn(1, 2, 12, 8, requires_grad=True) for _ in range(3))
    arguments = (q, k, v, [1, 2, 0, 3], [0, 2, 4], 1, True, 0.3)
    torch.library.opcheck(torch.ops.fibo_robot.diagonal_attention.default, arguments)


def test_operator_of_the_backward_pass_is_well_formed():
    q, k, v, grad = (torch.randn(1, 2, 12, 8) for _ in range(4))
    settings_ = ([1, 2, 0, 3], [0, 2, 4], 1, True, 0.3)
    out, lse = torch.ops.fibo_robot.diagonal_attention(q, k, v, *settings_)
    arguments = (grad, q, k, v, out, lse, *settings_)
    torch.library.opcheck(torch.ops.fibo_robot.diagonal_attention_backward.default, arguments)


@pytest.mark.parametrize("mask_mode", MASK_MODES)
def test_compiled_module_has_the_gradients_of_the_eager_one(mask_mode):
    """One graph forward and backward; `aot_eager` traces both and leaves out what only makes code faster."""
    attention = {"name": "fibottention", "mask_mode": mask_mode}
    module = create_attention(attention, 24, 3, layer_index=1, num_prefix_tokens=1)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 30, 24, requires_grad=True)
    upstream = torch.randn(2, 30, 24)
    inputs = (x, *module.parameters())
    with force_backend("numba"):
        results = [(out, *torch.autograd.grad(out, inputs, upstream)) for out in (compiled(x), module(x))]
    for traced, eager in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager)


def test_module_exports_with_the_sparse_kernel():
    module = create_attention("fibottention", 24, 3, layer_index=1, num_prefix_tokens=1).eval()
    x = torch.randn(2, 30, 24)
    with force_backend("numba"):
        exported = torch.export.export(module, (x,))
    assert any("diagonal_attention" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), module(x))


def test_autocast_step_in_bfloat16_follows_the_one_in_float32():
    """A training step without a GradScaler: bfloat16 has float32's range."""
    start = create_attention("fibottention", 24, 3, layer_index=0, num_prefix_tokens=1).state_dict()
    x = torch.randn(2, 30, 24)
    steps = {}
    for bfloat16 in (False, True):
        module = create_attention("fibottention", 24, 3, layer_index=0, num_prefix_tokens=1)
        module.load_state_dict(start)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        with force_backend("numba"), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = module(x)
            assert out.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
            loss = out.float().square().mean()
        loss.backward()
        optimizer.step()
        steps[bfloat16] = torch.cat([(w - start[n]).flatten() for n, w in module.named_parameters()])
    assert (steps[True] - steps[False]).norm() < 0.03 * steps[False].norm()


@pytest.mark.parametrize("mask_mode", MASK_MODES)
def test_autocast_changes_nothing_inside_the_operators(mask_mode):
    q, k, v = (torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3))
    options: dict[str, Any] = {"mask_mode": mask_mode, "backend": "numba"}
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = diagonal_attention(q, k, v, head_offsets(39, 2), **options)
            branch, _ = strongest_softmax(q, k, v, threshold=1.2, scale=0.25)
            upstream = out.detach() + 1
            grads = torch.autograd.grad((out, branch), (q, k, v), (upstream, upstream))
        results.append((out, branch, *grads))
    for plain, autocast in zip(*results, strict=True):
        assert torch.equal(plain, autocast)


def test_exported_graph_names_no_backend_and_runs_where_the_device_has_a_kernel():
    module = create_attention("fibottention", 24, 3, layer_index=1, num_prefix_tokens=1).eval()
    with force_backend("numba"):
        exported = torch.export.export(module, (torch.randn(2, 30, 24),))
    nodes = [node for node in exported.graph.nodes if "diagonal_attention" in str(node.target)]
    assert len(nodes) == 1 and not any(isinstance(argument, str) for argument in nodes[0].args)
    for name in ("diagonal_attention", "diagonal_attention_backward"):
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fibo_robot::{name}", key)
        # No device without a kernel of its own is given another's.
        assert not torch._C._dispatch_has_kernel_for_dispatch_key(
            f"fibo_robot::{name}", "CompositeExplicitAutograd"
        )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["fibottention", "castling"])
def test_derivatives_that_the_kernels_do_not_know_are_refused_and_never_zero(name, training):
    """Where an operator has no derivative in forward mode, PyTorch drops the tangent without a word."""
    module = create_attention(name, 24, 3, layer_index=1, num_prefix_tokens=1).train(training)
    module.requires_grad_(False)
    x, direction = torch.randn(2, 30, 24), torch.randn(2, 30, 24)

    def in_forward_mode() -> None:
        with torch.no_grad(), forward_ad.dual_level():
            module(forward_ad.make_dual(x, direction))

    with force_backend("numba"):
        for derivative in (
            in_forward_mode,
            lambda: torch.func.jvp(module, (x,), (direction,)),
            lambda: torch.func.grad(lambda x: module(x).sum())(x),
        ):
            with pytest.raises(AttentionError, match="neither in forward mode"):
                derivative()


def test_forced_backend_holds_in_every_thread_and_in_what_checkpoints_recompute():
    module = create_attention("fibottention", 24, 3, layer_index=1, num_prefix_tokens=1)
    x = torch.randn(2, 30, 24, requires_grad=True)
    failures, gradients = [], []

    def backward() -> None:
        try:  # another backend would keep other tensors, which checkpointing refuses
            gradients.append(torch.autograd.grad(loss, x)[0])
        except Exception as error:  # shown by the assertion below
            failures.append(error)

    with force_backend("numba"):
        expected = torch.autograd.grad(module(x).square().sum(), x)[0]
        loss = checkpoint(module, x, use_reentrant=False).square().sum()
        thread = threading.Thread(target=backward)
        thread.start()
        thread.join()
    assert failures == [] and torch.equal(gradients[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_long_sequences_run_sparsely_where_there_is_a_kernel_and_short_ones_never(device, dtype):
    """Dense attention of 25089 tokens is 100 times slower; that of a policy's 16 costs next to nothing."""
    kernel = {"cpu": "numba", "cuda": "triton"}.get(device, "sdpa")
    if (device, dtype) == ("cuda", torch.float64):
        kernel = "sdpa"  # Triton's computes in float32
    chosen = [choose_backend(torch.device(device), n, dtype) for n in range(1, 26000, 7)]
    assert chosen[0] == chosen[4] == "sdpa" and chosen[-1] == kernel
    changes = sum(one != other for one, other in pairwise(chosen))
    assert changes == (kernel != "sdpa")  # no length between goes back
