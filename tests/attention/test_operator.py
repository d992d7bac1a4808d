"""The sparse operator under autograd, autocast, export and odd inputs, against the float64 reference."""

import pytest
import torch

from fibo_robot.attention import choose_backend, create_attention, diagonal_attention, force_backend
from fibo_robot.attention.diagonal import MASK_MODES
from fibo_robot.attention.reference import reference_attention
from fibo_robot.attention.wythoff import OFFSET_RULES, head_offsets
from tests.properties import given, settings, st

BACKENDS = ["sdpa", "numba"]
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def relative_errors(backend, offsets, heads, tokens, head_dim, dtype, **options):
    """Relative error of the output and of the three gradients."""
    inputs = [torch.randn(2, heads, tokens, head_dim).to(dtype).requires_grad_() for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    upstream = torch.randn(2, heads, tokens, head_dim).to(dtype)
    out = diagonal_attention(*inputs, offsets, backend=backend, **options)
    expected = reference_attention(*exact, offsets, **options)
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
    assert max(errors) < 1e-6


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


def test_result_does_not_depend_on_the_number_of_threads():
    inputs = [torch.randn(1, 3, 400, 24, requires_grad=True) for _ in range(3)]
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out = diagonal_attention(*inputs, head_offsets(399, 3), backend="numba")
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_operator_is_well_formed():
    q, k, v = (torch.randn(1, 2, 12, 8, requires_grad=True) for _ in range(3))
    arguments = (q, k, v, [1, 2, 0, 3], [0, 2, 4], 1, True, 0.3, "numba")
    torch.library.opcheck(torch.ops.fibo_robot.diagonal_attention.default, arguments)


def test_operator_of_the_backward_pass_is_well_formed():
    q, k, v, grad = (torch.randn(1, 2, 12, 8) for _ in range(4))
    settings_ = ([1, 2, 0, 3], [0, 2, 4], 1, True, 0.3, "numba")
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


@pytest.mark.parametrize(
    ("device", "tokens", "dtype", "backend"),
    [
        ("cpu", 50, torch.float32, "sdpa"),
        ("cpu", 785, torch.float32, "numba"),
        ("cuda", 197, torch.bfloat16, "sdpa"),
        ("cuda", 3137, torch.bfloat16, "triton"),
        ("cuda", 3137, torch.float64, "sdpa"),
        ("mps", 3137, torch.float32, "sdpa"),
    ],
)
def test_backend_follows_device_length_and_dtype(device, tokens, dtype, backend):
    assert choose_backend(torch.device(device), tokens, dtype) == backend
