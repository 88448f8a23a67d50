"""Linear attention: the quadratic form, its gradient, and the recurrent form are one function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxae.nn.linear_attention import (
    causal_linear_attention,
    linear_attention,
    linear_attention_state,
    linear_attention_step,
)

B, N, H, C, M = 2, 13, 3, 4, 5


def inputs(seed=0, n=N, shift=0.0):
    rng = np.random.default_rng(seed)
    return [jnp.float32(rng.normal(size=(B, n, H, size)) + shift) for size in (C, C, M)]


def quadratic(q, k, v, causal, mask=None):
    """All pairs of positions, in the precision of the inputs."""
    q, k = (jnp.where(x > 0, x + 1, jnp.exp(x)) for x in (q, k))
    weights = jnp.einsum("bnhc,buhc->bhnu", q, k)
    if mask is not None:
        weights = weights * mask[:, None, None]
    if causal:
        weights = jnp.tril(weights)
    return jnp.einsum("bhnu,buhm->bnhm", weights, v) / (weights.sum(-1) + 1e-6).swapaxes(1, 2)[..., None]


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_causal_form_is_the_masked_quadratic_form(chunk):
    q, k, v = inputs()
    got = jax.jit(causal_linear_attention, static_argnums=3)(q, k, v, chunk)
    np.testing.assert_allclose(got, quadratic(q, k, v, causal=True), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_hidden_keys_count_for_nothing(causal):
    q, k, v = inputs()
    mask = np.random.default_rng(1).random((B, N)) < 0.6
    mask[0, :2], mask[1, 0] = False, True  # the first two positions of a causal sequence see nothing at all
    function = jax.jit(causal_linear_attention if causal else linear_attention)
    got = function(q, k, v, mask=jnp.array(mask))
    np.testing.assert_allclose(got, quadratic(q, k, v, causal, mask), atol=1e-5)
    other = jnp.where(mask[..., None, None], v, 100.0)
    np.testing.assert_array_equal(got, function(q, k, other, mask=jnp.array(mask)))
    if causal:
        assert np.all(got[0, :2] == 0)


@pytest.mark.parametrize("shift", [0.0, -8.0])  # features of about 1, and of about 1e-4, where the epsilon counts
def test_backward_pass_is_the_gradient_of_the_quadratic_form(shift):
    q, k, v = inputs(1, shift=shift)
    weights = inputs(2)[2]

    def gradients(function):
        return jax.jit(jax.grad(lambda *qkv: jnp.vdot(function(*qkv), weights), (0, 1, 2)))(q, k, v)

    want = gradients(lambda *qkv: quadratic(*qkv, causal=True))
    for got, exact in zip(gradients(lambda *qkv: causal_linear_attention(*qkv, chunk=4)), want, strict=True):
        np.testing.assert_allclose(got, exact, atol=1e-5 * max(1, np.abs(exact).max()))
        assert np.abs(exact).max() > 1e-3


def test_steps_reproduce_every_position():
    q, k, v = inputs()

    def step(state, token):
        return linear_attention_step(state, *token)

    tokens = tuple(x.swapaxes(0, 1) for x in (q, k, v))
    state, y = jax.jit(lambda tokens: lax.scan(step, linear_attention_state(B, H, C, M), tokens))(tokens)
    np.testing.assert_allclose(y.swapaxes(0, 1), quadratic(q, k, v, causal=True), atol=1e-5)
    assert state.s.shape == (B, H, C, M) and state.z.shape == (B, H, C)


def _sizes(jaxpr):
    """Sizes of all arrays that a program makes, loops and calls included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _sizes(inner)


def test_neither_value_nor_gradient_holds_a_state_for_each_position():
    n, c = 512, 32
    x = jax.ShapeDtypeStruct((1, n, 1, c), jnp.float32)
    program = jax.make_jaxpr(jax.grad(lambda *qkv: causal_linear_attention(*qkv, chunk=16).sum(), (0, 1, 2)))(x, x, x)
    sizes = list(_sizes(program.jaxpr))
    assert len(sizes) > 60 and max(sizes) <= n * (c + 1)  # all states at once: n * c * (c + 1)


def test_sums_are_float32_for_half_precision_inputs():
    q, k, v = (x.astype(jnp.bfloat16) for x in inputs(3, n=1500, shift=0.5))
    want = quadratic(*(x.astype(jnp.float32) for x in (q, k, v)), causal=True)
    got = jax.jit(causal_linear_attention)(q, k, v)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8, atol=1e-4)  # the output's rounding alone


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk >= 1"):
        causal_linear_attention(*inputs(), chunk=0)
