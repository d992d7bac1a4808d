"""The Triton kernels of Castling's linear-angular attention; angular.py calls them.

y = const/2 + q̂·S with the state S = k̂ᵀV/π; the output is y / ‖y‖ + taps * v. Products are the tensor cores';
norms, sums and what is stored between kernels are in float32. A state is a sum over all tokens, and the
gradient of y is divided by ‖y‖, which such a sum makes large: what float16 may not hold is divided by its
largest number before it is rounded, and the product multiplied by that.

Tensors travel as in kernels.py. Tiles are padded to BLOCK_D columns of zeros.
"""

import triton
import triton.language as tl

from fibo_robot.attention.backends.triton.kernels import (
    PRECISION,
    dot_rows,
    head_of,
    load_row,
    load_rows,
    place_of,
    store_rows,
)

EPSILON = tl.constexpr(1e-6)  # angular.NORM_EPSILON
PI = tl.constexpr(3.141592653589793)
AS_IT_IS, TRANSPOSE = tl.constexpr(False), tl.constexpr(True)
SMALLEST = tl.constexpr(1e-30)  # that is divided by, where all are zero


@triton.jit
def _reciprocal_norms(rows):
    """1 / max(‖row‖, ε)."""
    return 1 / tl.maximum(tl.sqrt(dot_rows(rows, rows)), EPSILON)


@triton.jit
def _through_norm(grads, directions, reciprocal):
    """The gradient of x from that of x̂ = x / max(‖x‖, ε); both `(rows, BLOCK_D)` in float32."""
    along = tl.where(reciprocal * EPSILON < 1, dot_rows(grads, directions), 0.0)
    return (grads - along[:, None] * directions) * reciprocal[:, None]


@triton.jit
def _load_state(state, bh, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """One head's `(BLOCK_D, BLOCK_D)` of a contiguous `(BH, D, D)` in float32."""
    rows = tl.arange(0, BLOCK_D)
    return load_rows(state + bh * D * D, D, rows, rows < D, D, BLOCK_D)


@triton.jit
def _rounded(numbers, DTYPE: tl.constexpr):
    """Numbers in a product's type, and what the product is to be multiplied by: 1, but for float16."""
    factor = 1.0
    if tl.float16 == DTYPE:
        factor = tl.maximum(tl.max(tl.abs(numbers)), SMALLEST)
        numbers = numbers / factor
    return numbers.to(DTYPE), factor


@triton.jit
def _times_state(rows, state, TRANSPOSED: tl.constexpr):
    """Rows by a state or its transpose, in float32; the state is rounded as rows are stored."""
    rounded, factor = _rounded(state, rows.dtype)
    if TRANSPOSED:
        rounded = tl.trans(rounded)
    return tl.dot(rows, rounded, input_precision=PRECISION) * factor


@triton.jit
def _convolve(
    values, stride, rows, taps, tokens,
    D: tl.constexpr, BLOCK_D: tl.constexpr, TAPS: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Taps times the rows around each row, or, BACK, the transpose of that: `(rows, BLOCK_D)`."""
    total = load_rows(values, stride, rows, rows < 0, D, BLOCK_D).to(tl.float32)
    for tap in tl.static_range(TAPS):  # pyright: ignore[reportGeneralTypeIssues]: Triton unrolls it
        places = rows + ((TAPS // 2 - tap) if BACK else (tap - TAPS // 2))
        found = load_rows(values, stride, places, (places >= 0) & (places < tokens), D, BLOCK_D)
        total += tl.load(taps + tap).to(tl.float32) * found.to(tl.float32)
    return total


@triton.jit
def state_kernel(
    k, v, states, heads, tokens, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`states (BH, splits, D, D)`: what every splits-th tile of tokens adds to k̂ᵀV/π."""
    split, _, batch, head = place_of(splits, heads)
    k_head, v_head = head_of(k, batch, head), head_of(v, batch, head)
    acc = tl.zeros([BLOCK_D, BLOCK_D], tl.float32)
    for start in range(split * BLOCK, tokens, splits * BLOCK):
        rows = start + tl.arange(0, BLOCK)
        keys = load_rows(k_head, k[3], rows, rows < tokens, D, BLOCK_D)
        values = load_rows(v_head, v[3], rows, rows < tokens, D, BLOCK_D)
        keys = (keys.to(tl.float32) * _reciprocal_norms(keys)[:, None]).to(keys.dtype)
        acc += tl.dot(tl.trans(keys), values, input_precision=PRECISION)
    columns = tl.arange(0, BLOCK_D)
    store_rows(states + tl.program_id(0).to(tl.int64) * D * D, D, columns, columns < D, acc / PI, D, BLOCK_D)


@triton.jit
def forward_kernel(
    q, v, branch, branch_scale, state, constant, taps, out, direction, inverse, heads, tokens,
    OWN: tl.constexpr, BRANCH: tl.constexpr, TRAINING: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Rows of `out`, and in TRAINING of `direction`, where there are taps, and `inverse (BH, N)`, 1 / ‖y‖.

    `state (BH, D, D)`; `constant (BH, D)`, unless each token has its OWN; `taps (heads, TAPS)`.
    """
    tile, bh, batch, head = place_of(tl.cdiv(tokens, BLOCK), heads)
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    queries = load_rows(head_of(q, batch, head), q[3], rows, inside, D, BLOCK_D)
    queries = (queries.to(tl.float32) * _reciprocal_norms(queries)[:, None]).to(queries.dtype)
    y = _times_state(queries, _load_state(state, bh, D, BLOCK_D), AS_IT_IS)
    v_head = head_of(v, batch, head)
    if OWN:
        y += 0.5 * load_rows(v_head, v[3], rows, inside, D, BLOCK_D).to(tl.float32)
    else:
        y += 0.5 * load_row(constant, D, bh, D, BLOCK_D)[None, :]
    if BRANCH:
        added = load_rows(head_of(branch, batch, head), branch[3], rows, inside, D, BLOCK_D)
        y += tl.load(branch_scale).to(tl.float32) * added.to(tl.float32)
    reciprocal = _reciprocal_norms(y)
    y *= reciprocal[:, None]
    if TRAINING:
        tl.store(inverse + bh * tokens + rows, reciprocal, mask=inside)
        if TAPS > 0:
            store_rows(head_of(direction, batch, head), direction[3], rows, inside, y, D, BLOCK_D)
    if TAPS > 0:
        y += _convolve(v_head, v[3], rows, taps + head * TAPS, tokens, D, BLOCK_D, TAPS, AS_IT_IS)
    store_rows(head_of(out, batch, head), out[3], rows, inside, y, D, BLOCK_D)


@triton.jit
def backward_queries_kernel(
    grad, q, v, direction, inverse, state, grad_q, grad_y, states, tap_grads, heads, tokens, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Rows of the gradients of y and q, and what every splits-th tile adds to those of state and taps.

    `states (BH, splits, D, D)`, `tap_grads (BH, splits, TAPS)`; SOME is a power of two from TAPS on.
    """
    split, bh, batch, head = place_of(splits, heads)
    q_head, v_head, grad_head = head_of(q, batch, head), head_of(v, batch, head), head_of(grad, batch, head)
    own_state = _load_state(state, bh, D, BLOCK_D)
    acc = tl.zeros([BLOCK_D, BLOCK_D], tl.float32)
    of_taps, numbers = tl.zeros([SOME], tl.float32), tl.arange(0, SOME)
    for start in range(split * BLOCK, tokens, splits * BLOCK):
        rows = start + tl.arange(0, BLOCK)
        inside = rows < tokens
        grads = load_rows(grad_head, grad[3], rows, inside, D, BLOCK_D)
        for tap in tl.static_range(TAPS):  # pyright: ignore[reportGeneralTypeIssues]
            places = rows + (tap - TAPS // 2)
            found = load_rows(v_head, v[3], places, (places >= 0) & (places < tokens), D, BLOCK_D)
            of_taps += tl.where(numbers == tap, tl.sum(dot_rows(grads, found), axis=0), 0.0)
        directions = load_rows(head_of(direction, batch, head), direction[3], rows, inside, D, BLOCK_D)
        reciprocal = tl.load(inverse + bh * tokens + rows, mask=inside, other=1.0)
        of_y = _through_norm(grads.to(tl.float32), directions.to(tl.float32), reciprocal)
        store_rows(head_of(grad_y, batch, head), grad_y[3], rows, inside, of_y, D, BLOCK_D)
        queries = load_rows(q_head, q[3], rows, inside, D, BLOCK_D)
        reciprocal = _reciprocal_norms(queries)
        exact = queries.to(tl.float32) * reciprocal[:, None]
        of_y, factor = _rounded(of_y, queries.dtype)
        acc += tl.dot(tl.trans(exact.to(queries.dtype)), of_y, input_precision=PRECISION) * factor
        of_q = _through_norm(_times_state(of_y, own_state, TRANSPOSE) * factor, exact, reciprocal)
        store_rows(head_of(grad_q, batch, head), grad_q[3], rows, inside, of_q, D, BLOCK_D)
    program, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_D)
    store_rows(states + program * D * D, D, columns, columns < D, acc / PI, D, BLOCK_D)
    if TAPS > 0:
        tl.store(tap_grads + program * TAPS + numbers, of_taps, mask=numbers < TAPS)


@triton.jit
def backward_keys_kernel(
    grad, k, v, grad_y, grad_state, grad_constant, taps, grad_k, grad_v, heads, tokens,
    OWN: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Rows of the gradients of k and v.

    `grad_state (BH, D, D)`; `grad_constant (BH, D)`, that of v's sum, unless each token has its OWN.
    """
    tile, bh, batch, head = place_of(tl.cdiv(tokens, BLOCK), heads)
    rows = tile * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    of_state = _load_state(grad_state, bh, D, BLOCK_D)
    keys = load_rows(head_of(k, batch, head), k[3], rows, inside, D, BLOCK_D)
    values = load_rows(head_of(v, batch, head), v[3], rows, inside, D, BLOCK_D)
    reciprocal = _reciprocal_norms(keys)
    exact = keys.to(tl.float32) * reciprocal[:, None]
    of_k = _through_norm(_times_state(values, of_state, TRANSPOSE), exact, reciprocal)
    store_rows(head_of(grad_k, batch, head), grad_k[3], rows, inside, of_k, D, BLOCK_D)
    of_v = _times_state(exact.to(keys.dtype), of_state, AS_IT_IS)
    if OWN:
        of_y = load_rows(head_of(grad_y, batch, head), grad_y[3], rows, inside, D, BLOCK_D)
        of_v += 0.5 * of_y.to(tl.float32)
    else:
        of_v += load_row(grad_constant, D, bh, D, BLOCK_D)[None, :]
    if TAPS > 0:
        grad_head = head_of(grad, batch, head)
        of_v += _convolve(grad_head, grad[3], rows, taps + head * TAPS, tokens, D, BLOCK_D, TAPS, TRANSPOSE)
    store_rows(head_of(grad_v, batch, head), grad_v[3], rows, inside, of_v, D, BLOCK_D)
