"""The comparators against independent dense or naive computations in float64."""

import math

import pytest
import torch
from timm.models.xcit import XCA

from fibo_robot.attention.sparse.reference import reference_attention
from tests.attention.comparators.cases import HEAD_DIM, HEADS, NAMES, placed, random_qkv, tokens_of


def masked_softmax(q, k, v, mask):
    logits = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    return logits.masked_fill(~mask, float("-inf")).softmax(dim=-1) @ v


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize(
    ("window", "grid"), [(2, (1, 5, 4)), (6, (1, 5, 4)), (8, (2, 3, 3)), (64, (1, 5, 4))]
)
def test_window_equals_the_dense_band(prefix, window, grid):
    core = placed("window", prefix, grid, window=window).core
    q, k, v = random_qkv(core)
    band = [range(min(window // 2 + 1, math.prod(grid)))] * HEADS
    expected = reference_attention(q, k, v, band, num_prefix_tokens=prefix)
    torch.testing.assert_close(core(q, k, v), expected)


def bigbird_mask(core):
    """Token pairs by the definition: global tokens, and blocks that are neighbours or drawn."""
    size, prefix, tokens = core.options.block_size, core.num_prefix_tokens, tokens_of(core)
    blocks, num_global = core.key_blocks(tokens)
    assert num_global == min(prefix + core.options.global_blocks * size, tokens)
    mask = torch.zeros(HEADS, tokens, tokens, dtype=torch.bool)
    mask[:, :num_global] = mask[:, :, :num_global] = True
    for head in range(HEADS):
        for query in range(num_global, tokens):
            row = (query - num_global) // size
            wanted = {row - 1, row, row + 1} | set(blocks[head, row].tolist())
            for key in range(num_global, tokens):
                mask[head, query, key] |= (key - num_global) // size in wanted
    return mask


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("grid", [(1, 5, 4), (2, 4, 4), (1, 1, 2)])
def test_bigbird_equals_its_dense_mask(prefix, grid):
    core = placed("bigbird", prefix, grid, layer=2).core
    q, k, v = random_qkv(core)
    torch.testing.assert_close(core(q, k, v), masked_softmax(q, k, v, bigbird_mask(core)))


def test_bigbird_draws_distinct_far_blocks_by_layer_and_head():
    blocks = {}
    for layer in (0, 1):
        core = placed("bigbird", 1, (1, 10, 10), layer=layer, block_size=4).core
        blocks[layer] = core.key_blocks(101)[0]
        for per_head in blocks[layer].tolist():
            for row, chosen in enumerate(per_head):
                near, drawn = chosen[:3], chosen[3:]
                assert [b for b in near if b >= 0] == [b for b in (row - 1, row, row + 1) if 0 <= b < 24]
                assert len(set(drawn)) == 2 and all(abs(b - row) > 1 and 0 <= b < 24 for b in drawn)
    again = placed("bigbird", 1, (1, 10, 10), layer=1, block_size=4).eval().core.key_blocks(101)[0]
    assert torch.equal(again, blocks[1])
    assert not torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[0][0], blocks[0][1])


@pytest.mark.parametrize("share", [True, False])
def test_linformer_equals_softmax_over_projected_tokens(share):
    core = placed("linformer", share_key_value=share).core
    q, k, v = random_qkv(core)
    for_values = core.key_projection if share else core.value_projection
    few_keys = torch.einsum("kn,bhnd->bhkd", core.key_projection, k)
    few_values = torch.einsum("kn,bhnd->bhkd", for_values, v)
    every_pair = torch.ones(q.shape[-2], 5, dtype=torch.bool)
    torch.testing.assert_close(core(q, k, v), masked_softmax(q, few_keys, few_values, every_pair))


def test_linformer_draws_new_projections_for_another_number_of_tokens_only():
    module = placed("linformer")
    before = module.core.key_projection
    module.place(3, 1, (1, 4, 5))
    assert module.core.key_projection is before
    module.place(3, 1, (2, 5, 4))
    assert module.core.key_projection.shape == (5, 41)
    assert module.core.value_projection.dtype == torch.float64


def test_efficient_attention_equals_its_dense_weights():
    core = placed("efficient").core
    q, k, v = random_qkv(core)
    weights = torch.einsum("bhid,bhjd->bhij", q.softmax(dim=-1), k.softmax(dim=-2))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    torch.testing.assert_close(core(q, k, v), weights @ v)


def test_vitality_equals_normalised_taylor_weights():
    core = placed("vitality").core
    q, k, v = random_qkv(core)
    centred = k - k.mean(dim=2, keepdim=True)
    weights = 1 + (q @ centred.transpose(-2, -1)) / math.sqrt(HEAD_DIM)
    torch.testing.assert_close(core(q, k, v), weights / weights.sum(dim=-1, keepdim=True) @ v)


def test_vitality_approaches_softmax_for_small_logits():
    core = placed("vitality").core
    q, k, v = random_qkv(core)
    errors = []
    for size in (1e-1, 1e-2):
        dense = torch.nn.functional.scaled_dot_product_attention(size * q, k, v)
        errors.append(float((core(size * q, k, v) - dense).abs().max()))
    assert errors[1] < errors[0] / 50  # of second order


@pytest.mark.parametrize("num_tokens", [21, 50])
def test_xcit_equals_timms(num_tokens):
    timms = XCA(HEADS * HEAD_DIM, HEADS, qkv_bias=True).double()
    with torch.no_grad():
        timms.temperature.uniform_(0.5, 2)
    ours = placed("xcit", 1, (1, num_tokens - 1, 1))
    ours.load_state_dict(
        {k.replace("temperature", "core.temperature"): w for k, w in timms.state_dict().items()}
    )
    x = torch.randn(2, num_tokens, HEADS * HEAD_DIM, dtype=torch.float64)
    torch.testing.assert_close(ours(x), timms(x))


def test_tost_equals_its_formula_token_by_token():
    core = placed("tost").core
    with torch.no_grad():
        core.temperature.uniform_(0.5, 5)
    q, k, v = random_qkv(core, batch=1)
    w, tokens = v[0], v.shape[2]
    norms = w.square().sum(dim=1, keepdim=True).sqrt()
    energy = ((w / norms) ** 2).sum(dim=2) * core.temperature
    expected = torch.empty_like(w)
    belongs = torch.stack([torch.softmax(energy[:, token], dim=0) for token in range(tokens)], dim=1)
    for head in range(HEADS):
        moment = sum(belongs[head, t] * w[head, t] ** 2 for t in range(tokens)) / belongs[head].sum()
        for token in range(tokens):
            expected[head, token] = -belongs[head, token] * w[head, token] / (1 + moment)
    torch.testing.assert_close(core(q, k, v)[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("grid", [(1, 5, 4), (3, 2, 5)])
def test_afno_equals_a_network_on_the_full_fourier_transform(grid):
    """By matrices of the full complex transform, at every frequency, without a library's FFT."""
    core = placed("afno", 1, grid).core
    with torch.no_grad():
        for weight in core.parameters():
            weight.mul_(20)  # so that the shrinkage leaves something
    q, k, v = random_qkv(core)
    transform = torch.ones(1, 1, dtype=torch.complex128)
    for size in grid:
        steps = torch.arange(size, dtype=torch.float64)
        angle = -2 * math.pi * torch.outer(steps, steps) / size
        axis = torch.polar(torch.full_like(angle, size**-0.5), angle)
        transform = torch.kron(transform, axis)
    spectrum = torch.einsum("fn,bhnd->bhfd", transform, v[:, :, 1:].to(torch.complex128))
    hidden_weight, hidden_bias, out_weight, out_bias = (
        torch.complex(getattr(core, name)[..., 0], getattr(core, name)[..., 1])
        for name in ("hidden_weight", "hidden_bias", "out_weight", "out_bias")
    )
    hidden = torch.einsum("bhfi,hio->bhfo", spectrum, hidden_weight) + hidden_bias[:, None]
    hidden = torch.complex(hidden.real.relu(), hidden.imag.relu())
    out = torch.einsum("bhfi,hio->bhfo", hidden, out_weight) + out_bias[:, None]
    shrunk = [part.sign() * (part.abs() - 0.01).clamp_min(0) for part in (out.real, out.imag)]
    # A real answer knows half of the frequencies; the other half mirrors them.
    half = torch.complex(*shrunk).unflatten(2, grid)[..., : grid[2] // 2 + 1, :]
    mixed = torch.fft.irfftn(half, s=grid, dim=(2, 3, 4), norm="ortho").flatten(2, 4)
    expected = torch.cat([v[:, :, :1], v[:, :, 1:] + mixed], dim=2)
    torch.testing.assert_close(core(q, k, v), expected)
    assert (mixed.abs() > 1e-3).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", [0, 2])
def test_gradients_equal_finite_differences(name, prefix):
    core = placed(name, prefix, (1, 3, 3), **({"window": 4} if name == "window" else {})).core
    inputs = tuple(tensor.requires_grad_() for tensor in random_qkv(core, batch=1))
    weights = tuple(core.parameters())

    def function(q, k, v, *_):
        return core(q, k, v)

    assert torch.autograd.gradcheck(function, (*inputs, *weights), fast_mode=True)
