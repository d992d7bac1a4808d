"""Diagonal attention against its definition, on every backend and over the shapes that break kernels."""

import math
from typing import cast

import pytest
import torch

from fibo_robot.attention import diagonal_attention, force_backend
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.sparse.diagonal import MASK_MODES, Backend
from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.attention.wythoff import head_offsets

# Triton has its own file: on a machine without a GPU it runs in an interpreter.
BACKENDS = ["reference", "sdpa", "numba"]


def random_qkv(heads, tokens, head_dim, batch=2, dtype=torch.float32):
    return [torch.randn(batch, heads, tokens, head_dim, dtype=dtype) for _ in range(3)]


def by_hand(q, k, v, offsets, num_prefix_tokens, mask_mode):
    """The definition as three loops of scalars."""
    _, heads, tokens, head_dim = q.shape
    out = torch.zeros_like(q)
    for head in range(heads):
        for query in range(tokens):
            weights = []
            for key in range(tokens):
                prefix = query < num_prefix_tokens or key < num_prefix_tokens
                on = prefix or abs(query - key) in offsets[head]
                logit = float(q[0, head, query] @ k[0, head, key]) / math.sqrt(head_dim)
                if on:
                    weights.append(math.exp(logit))
                else:
                    weights.append(1.0 if mask_mode == "zero_logit" else 0.0)
            total = sum(weights)
            for key in range(tokens):
                if total > 0:
                    out[0, head, query] += weights[key] / total * v[0, head, key]
    return out


@pytest.mark.parametrize("mask_mode", MASK_MODES)
@pytest.mark.parametrize("num_prefix_tokens", [0, 1, 2])
def test_reference_equals_the_definition_written_as_loops(mask_mode, num_prefix_tokens):
    q, k, v = random_qkv(3, 12, 4, batch=1, dtype=torch.float64)
    offsets = [[1, 2], [0, 4], [11 - num_prefix_tokens]]
    expected = by_hand(q, k, v, offsets, num_prefix_tokens, mask_mode)
    out = reference_attention(q, k, v, offsets, num_prefix_tokens=num_prefix_tokens, mask_mode=mask_mode)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask_mode", MASK_MODES)
@pytest.mark.parametrize("rule", ["paper", "modified", "robot_release"])
@pytest.mark.parametrize(
    ("heads", "patches", "num_prefix_tokens", "head_dim"),
    [(12, 196, 1, 64), (1, 49, 1, 16), (3, 50, 0, 32), (12, 9, 0, 32), (2, 1, 1, 16), (4, 37, 5, 128)],
)
def test_backend_equals_the_float64_reference(
    backend, mask_mode, rule, heads, patches, num_prefix_tokens, head_dim
):
    q, k, v = random_qkv(heads, patches + num_prefix_tokens, head_dim)
    offsets = head_offsets(patches, heads, rule)
    options = {"num_prefix_tokens": num_prefix_tokens, "mask_mode": mask_mode}
    expected = reference_attention(q.double(), k.double(), v.double(), offsets, **options)
    out = diagonal_attention(q, k, v, offsets, backend=backend, **options)
    assert (out.double() - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
def test_masked_key_has_no_influence(backend, num_prefix_tokens):
    q, k, v = random_qkv(2, 30 + num_prefix_tokens, 16)
    offsets = head_offsets(30, 2)
    options = {"num_prefix_tokens": num_prefix_tokens, "backend": backend}
    before = diagonal_attention(q, k, v, offsets, **options)
    changed = 17 + num_prefix_tokens
    k[:, :, changed] += 3.0
    v[:, :, changed] = 1e6
    after = diagonal_attention(q, k, v, offsets, **options)
    for head in range(2):
        for query in range(num_prefix_tokens, q.shape[2]):
            sees = abs(query - changed) in offsets[head]
            same = torch.equal(before[:, head, query], after[:, head, query])
            assert same != sees, f"head {head}, query {query}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_query_without_keys_gives_zeros_and_finite_gradients(backend):
    q, k, v = (tensor.requires_grad_() for tensor in random_qkv(1, 3, 8))
    out = diagonal_attention(q, k, v, [[2]], num_prefix_tokens=0, backend=backend)
    assert torch.equal(out[:, :, 1], torch.zeros_like(out[:, :, 1]))
    torch.testing.assert_close(out[:, :, 0], v[:, :, 2])
    out.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in (q, k, v))


@pytest.mark.parametrize("mask_mode", MASK_MODES)
@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
def test_reference_gradient(mask_mode, num_prefix_tokens):
    inputs = [tensor.requires_grad_() for tensor in random_qkv(2, 9, 4, batch=1, dtype=torch.float64)]

    def attention(q, k, v):
        return reference_attention(
            q, k, v, [[0, 3], [1, 5]], num_prefix_tokens=num_prefix_tokens, mask_mode=mask_mode
        )

    assert torch.autograd.gradcheck(attention, inputs)


def test_scale_replaces_the_default():
    q, k, v = random_qkv(1, 8, 16)
    offsets = [[1, 2]]
    torch.testing.assert_close(
        diagonal_attention(q, k, v, offsets, scale=0.25), diagonal_attention(q, k, v, offsets)
    )
    torch.testing.assert_close(
        diagonal_attention(q, k, v, offsets, scale=0.5), diagonal_attention(2 * q, k, v, offsets)
    )


def test_backend_can_be_forced_by_context_and_by_environment(monkeypatch):
    q, k, v = random_qkv(1, 8, 16)
    monkeypatch.setenv("FIBO_ATTENTION_BACKEND", "nonsense")
    with pytest.raises(AttentionError, match="FIBO_ATTENTION_BACKEND"):
        diagonal_attention(q, k, v, [[1]])
    with force_backend("reference"):
        diagonal_attention(q, k, v, [[1]])
    with pytest.raises(AttentionError, match="backend"), force_backend(cast(Backend, "nonsense")):
        pass


def bad_calls():
    q = torch.randn(1, 2, 8, 4)
    good = {"q": q, "k": q, "v": q, "offsets": [[1], [2]]}
    return [
        ("q", {**good, "q": q[0]}),
        ("k", {**good, "k": q[:, :, :7]}),
        ("v", {**good, "v": q[..., :3]}),
        ("v", {**good, "v": q.double()}),
        ("k", {**good, "k": q.to("meta")}),
        ("q", {**good, **dict.fromkeys("qkv", q.long())}),
        ("q", {**good, **dict.fromkeys("qkv", q[:, :, :0])}),
        ("q's head_dim", {**good, **dict.fromkeys("qkv", torch.randn(1, 2, 8, 257))}),
        ("offsets", {**good, "offsets": [[1]]}),
        ("offsets of head 1", {**good, "offsets": [[1], [7]]}),
        ("offsets of head 0", {**good, "offsets": [[-1], [2]]}),
        ("num_prefix_tokens", {**good, "num_prefix_tokens": 9}),
        ("mask_mode", {**good, "mask_mode": "none"}),
        ("backend", {**good, "backend": "cuda"}),
    ]


@pytest.mark.parametrize(("named", "call"), bad_calls())
def test_bad_input_is_refused_by_name(named, call):
    with pytest.raises(AttentionError, match=rf"^{named}"):
        call = dict(call)
        diagonal_attention(call.pop("q"), call.pop("k"), call.pop("v"), call.pop("offsets"), **call)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("mask_mode", MASK_MODES)
@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
@pytest.mark.parametrize("changed", ["q", "k", "v"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_reaches_what_depends_on_it_and_nothing_else(
    backend, changed, num_prefix_tokens, mask_mode, value
):
    tensors = dict(zip("qkv", random_qkv(1, 11, 8, batch=1), strict=True))
    options = {"num_prefix_tokens": num_prefix_tokens, "mask_mode": mask_mode, "backend": backend}
    tensors[changed][0, 0, 5] = value
    out = diagonal_attention(**tensors, offsets=[[1, 3]], **options)[0, 0]
    sees = {token for token in range(11) if abs(token - 5) in (1, 3) or token < num_prefix_tokens}
    if changed == "q":
        sees = {5}
    elif changed == "v" and mask_mode == "zero_logit":
        sees = set(range(11))  # masked pairs weigh e⁰ there
    reached = {token for token in range(11) if not out[token].isfinite().all()}
    if backend == "sdpa" and mask_mode == "drop" and changed != "q":
        assert sees <= reached  # as its documentation says, perhaps more
    elif math.isnan(value):
        assert reached == sees
    else:  # of infinite queries and keys, some logits are -inf and their weights 0
        assert reached <= sees and (changed != "v" or reached == sees)


@pytest.mark.parametrize("changed", ["q", "k", "v"])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_query_without_keys_gives_zeros_whatever_the_numbers_are(backend, changed):
    q, k, v = random_qkv(1, 11, 8, batch=1)
    {"q": q, "k": k, "v": v}[changed][0, 0, 5] = math.nan
    out = diagonal_attention(q, k, v, [[]], num_prefix_tokens=0, backend=backend)
    assert out.abs().max() == 0
