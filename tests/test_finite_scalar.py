"""Finite scalars: every index, every level, the gradient of the bound, and the grids of the residual form."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import quantizers
from jaxae.quantizers.finite_scalar import (
    FSQ_LEVELS,
    finite_scalar,
    fsq_bound,
    fsq_codes_to_indices,
    fsq_indices_to_codes,
    residual_finite_scalar,
    residual_fsq_indices_to_codes,
)

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "scalar_quantizers.npz")
KEY = jax.random.key(0)
fsq = jax.jit(quantizers.fsq, static_argnums=1)
residual_fsq = jax.jit(quantizers.residual_fsq, static_argnums=(1, 2))


def normal(shape, scale=2.0, seed=0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


# ---------------------------------------------------------------- indices and levels

@pytest.mark.parametrize("levels", [*FSQ_LEVELS.values(), (2, 3), (9,), (16, 256)])
def test_indices_and_codes_are_a_bijection_of_the_whole_codebook(levels):
    indices = np.arange(math.prod(levels), dtype=np.int32)
    codes, back = jax.jit(lambda i: (c := fsq_indices_to_codes(i, levels), fsq_codes_to_indices(c, levels)))(
        indices)
    np.testing.assert_array_equal(back, indices)
    digits = np.stack(np.unravel_index(indices, levels, order="F"), 1)  # the first channel is the quickest
    half = np.array(levels) // 2
    np.testing.assert_allclose(codes, (digits - half) / half, atol=1e-6)


def test_recommended_levels_are_near_their_size_and_five_at_least():
    for size, levels in FSQ_LEVELS.items():
        assert 0.9 < math.prod(levels) / size < 1.1 and min(levels) >= 5


def test_a_sweep_of_the_line_visits_each_level_once_and_zero_is_zero():
    """Also with two levels, where 1 - eps would give NaN, and past a thousand, where eps alone would add a level."""
    levels = (*range(2, 10), 2001)
    line = jnp.linspace(-20.0, 20.0, 40_001)
    codes, _ = jax.jit(jax.vmap(lambda x: fsq(jnp.full(9, x), levels)._replace(indices=jnp.int32(0))))(line)
    for size, column in zip(levels, np.asarray(codes).T, strict=True):
        visited = np.unique(np.round(column * (size // 2)).astype(int))
        np.testing.assert_array_equal(visited, np.arange(size) - size // 2)
        assert (np.diff(column) >= -1e-6).all()  # in order
    np.testing.assert_array_equal(fsq(jnp.zeros((1, 9)), levels[:8] + (9,)).z_q, np.zeros((1, 9)))


def test_bound_is_zero_at_zero_and_stays_within_the_range_of_its_levels():
    levels = (2, 3, 4, 5, 8)
    bound = jax.jit(lambda z: fsq_bound(z, levels))(jnp.array([[0.0] * 5, [50.0] * 5, [-50.0] * 5]))
    half = 1.001 * (np.array(levels) - 1) / 2
    offset = np.array([0.5, 0, 0.5, 0, 0.5])
    np.testing.assert_allclose(bound, [np.zeros(5), half - offset, -half - offset], atol=1e-6)


# ---------------------------------------------------------------- gradient, dtype, contract

def test_gradient_is_that_of_the_bound_over_the_half_width():
    levels = (2, 3, 4, 5, 8, 9)
    z = normal((50, 6))
    slope = jax.jit(jax.grad(lambda z: fsq(z, levels).z_q.sum()))(z)
    size = np.array(levels)
    half = 1.001 * (size - 1) / 2
    shift = np.arctanh(np.where(size % 2, 0, 0.5) / half)
    np.testing.assert_allclose(slope, half / np.cosh(np.asarray(z, np.float64) + shift)**2 / (size // 2), atol=1e-5)


def test_bfloat16_vectors_have_the_indices_of_float32():
    levels = (8, 8, 8, 6, 5)
    z = normal((2000, 5)).astype(jnp.bfloat16)
    found = fsq(z, levels)
    want = fsq(z.astype(jnp.float32), levels)
    assert found.z_q.dtype == jnp.bfloat16 and found.indices.dtype == jnp.int32
    np.testing.assert_array_equal(found.indices, want.indices)
    assert (want.indices > 256).mean() > 0.9  # where bfloat16 has no odd integers
    back = jax.jit(lambda c: fsq_codes_to_indices(c, levels))(found.z_q)
    np.testing.assert_array_equal(back, want.indices)


@pytest.mark.parametrize("quantizer, places", [(finite_scalar((8, 5, 2)), 1),
                                               (residual_finite_scalar((8, 5, 3), 3), 3),
                                               (residual_finite_scalar((8, 5, 3), 1), 1)])
def test_quantizers_keep_the_contract(quantizer, places):
    z = normal((4, 7, 3))
    state = quantizer.init(KEY)
    got = jax.jit(quantizer.quantize, static_argnums=3)(z, state, KEY, True)
    assert got.indices.shape == ((4, 7) if places == 1 else (4, 7, places)) and quantizer.places == places
    assert got.indices.min() >= 0 and got.indices.max() < quantizer.codes and quantizer.width == 3
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(got.indices, state), got.z_q, atol=1e-6)
    np.testing.assert_array_equal(got.loss, np.zeros(4))
    assert got.state == state and quantizer.start is quantizer.after is None


def test_bad_levels_are_told_what_to_do():
    with pytest.raises(ValueError, match="at least 2 levels"):
        finite_scalar((8, 1))
    with pytest.raises(ValueError, match="2147483648 codes.*fewer channels"):
        finite_scalar((2,) * 31)
    with pytest.raises(ValueError, match="width 4, the levels .* want width 3"):
        jax.jit(lambda z: fsq(z, (5, 5, 5)))(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="at least 2 levels"):
        residual_finite_scalar((5, 1), 2)
    with pytest.raises(ValueError, match="float32 tells no difference"):
        residual_finite_scalar((9, 9), 9)


# ---------------------------------------------------------------- the residual form

RESIDUAL = (2, 4, 5, 8)


def residual_bound(z):
    """Whose range is L / (L - 1), in float64."""
    ceiling = np.array(RESIDUAL) / (np.array(RESIDUAL) - 1)
    return ceiling * np.tanh(np.asarray(z, np.float64) / ceiling)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_residual_scalars_are_the_nearest_of_evenly_spaced_points(depth):
    """L^depth points, symmetric about 0."""
    z = normal((1000, 4))
    found = residual_fsq(z, RESIDUAL, depth)
    bounded, size = residual_bound(z), np.array(RESIDUAL)
    points = size**depth
    spacing = 2.0 * size**(1.0 - depth) / (size - 1)
    place = np.clip(np.round(bounded / spacing + (points - 1) / 2), 0, points - 1)
    tie = np.abs(np.abs(bounded / spacing + (points - 1) / 2 - place) - 0.5) < 1e-2
    apart = np.abs(found.z_q - (place - (points - 1) / 2) * spacing)
    assert (apart[~tie] < 2e-6).all() and tie.mean() < 0.1
    assert (np.abs(bounded - found.z_q) <= spacing / 2 + 2e-6).all()
    assert (np.abs(bounded - found.z_q).max(0) > 0.9 * spacing / 2).all()


def test_residual_codes_refine_one_another_and_pass_the_bounds_gradient():
    z = normal((500, 4))
    deep = residual_fsq(z, RESIDUAL, 3)
    for depth in (1, 2):
        shallow = residual_fsq(z, RESIDUAL, depth)
        np.testing.assert_array_equal(shallow.indices, deep.indices[:, :depth])
        prefix = jax.jit(lambda i: residual_fsq_indices_to_codes(i, RESIDUAL))(deep.indices[:, :depth])
        np.testing.assert_allclose(prefix, shallow.z_q, atol=1e-6)
    slope = jax.jit(jax.grad(lambda z: residual_fsq(z, RESIDUAL, 3).z_q.sum()))(z)
    ceiling = np.array(RESIDUAL) / (np.array(RESIDUAL) - 1)
    np.testing.assert_allclose(slope, 1 / np.cosh(np.asarray(z) / ceiling)**2, atol=1e-5)


def test_every_code_of_every_step_is_in_reach():
    found = residual_fsq(normal((200_000, 2), 1.0), (2, 4), 3)
    for i in range(3):
        assert len(np.unique(found.indices[:, i])) == 8
    assert [len(np.unique(column)) for column in found.z_q.T] == [2**3, 4**3]


# ---------------------------------------------------------------- vector-quantize-pytorch

@pytest.mark.parametrize("name", ["even", "mixed", "odd"])
def test_codes_are_those_of_vector_quantize_pytorch(name):
    levels = tuple(GOLDEN[f"fsq/{name}/levels"].tolist())
    found = fsq(GOLDEN[f"fsq/{name}/z"], levels)
    np.testing.assert_array_equal(found.indices, GOLDEN[f"fsq/{name}/indices"])
    np.testing.assert_allclose(found.z_q, GOLDEN[f"fsq/{name}/codes"], atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_residual_codes_are_those_of_vector_quantize_pytorch(depth):
    found = residual_fsq(GOLDEN["residual/z"], tuple(GOLDEN["residual/levels"].tolist()), depth)
    np.testing.assert_array_equal(found.indices, GOLDEN[f"residual/indices{depth}"])
    np.testing.assert_allclose(found.z_q, GOLDEN[f"residual/codes{depth}"], atol=1e-6)
