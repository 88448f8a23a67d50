"""Factorised encoders against Kronecker products, dense top-k and a construction that is exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.sae import kron
from jaxae.sae.codes import dense
from jaxae.sae.encoders import of_pre
from jaxae.sae.sparsifiers import topk


def units(n=1000, heads=6, bases=4, extensions=5, seed=0):
    """Half of them zero, as ReLU leaves them."""
    keys = jax.random.split(jax.random.key(seed), 2)
    return (jax.nn.relu(jax.random.normal(keys[0], (n, heads, bases))),
            jax.nn.relu(jax.random.normal(keys[1], (n, heads, extensions))))


def test_latents_are_the_kronecker_product_of_square_roots():
    base, extension = units(n=20)
    pre = jax.jit(kron.kron_pre)(base, extension)
    for i in range(20):
        expected = [np.kron(np.sqrt(p), np.sqrt(q)) for p, q in zip(base[i], extension[i], strict=True)]
        np.testing.assert_allclose(pre[i], np.concatenate(expected), atol=1e-6)
    head, first, second = jax.jit(partial(kron.split_index, bases=4, extensions=5))(jnp.arange(120))
    again = jnp.sqrt(base[:, head, first]) * jnp.sqrt(extension[:, head, second])
    np.testing.assert_allclose(pre, again, atol=1e-6)


def test_mand_scales_as_its_inputs_and_has_finite_gradients():
    u = jnp.array([0.0, 1.0, 0.0, 1e-30, 1e-3, 2.0, -1.0, -1.0])
    v = jnp.array([1.0, 0.0, 0.0, 5.0, 1e-4, 3.0, -1.0, 2.0])
    np.testing.assert_allclose(jax.jit(kron.mand)(3.0 * u, 3.0 * v), 3.0 * kron.mand(u, v), rtol=1e-6)
    slopes = jax.jit(jax.grad(lambda u, v: kron.mand(u, v).sum(), (0, 1)))(u, v)
    assert all(np.isfinite(s).all() for s in slopes)
    off = np.array([0, 1, 2, 6, 7])
    assert not any(np.asarray(s)[off].any() for s in slopes)
    np.testing.assert_allclose([slopes[0][5], slopes[1][5]], [0.5 * np.sqrt(3 / 2), 0.5 * np.sqrt(2 / 3)], rtol=1e-6)
    assert float(slopes[0][3]) == pytest.approx(2.5 / np.sqrt(1e-5), rel=1e-5)  # where the floor holds
    column = jax.jit(jax.grad(lambda u: kron.mand(u[:, None], v[None]).sum()))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(column, [0.5 * np.sqrt(v[v > 0] / a).sum() for a in (1.0, 2.0)], rtol=1e-5)


@pytest.mark.parametrize("sizes, k, combine", [
    ((6, 4, 5), 60, "mand"), ((40, 2, 3), 5, "mand"), ((1, 12, 12), 3, "mand"), ((6, 4, 5), 7, "product"),
    ((6, 4, 5), 7, "min"), ((6, 4, 5), 7, "sum")])
def test_sparse_topk_is_dense_topk(sizes, k, combine):
    base, extension = units(1000, *sizes)
    found = jax.jit(partial(kron.kron_topk, k=k, combine=combine))(base, extension)
    pre = kron.kron_pre(base, extension, combine)
    best, _ = jax.lax.top_k(pre, k)
    np.testing.assert_allclose(found.values, best, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(np.asarray(pre), np.asarray(found.indices), 1), best, rtol=1e-5)
    assert (np.diff(np.sort(found.indices, axis=1), axis=1) > 0).all()  # none is chosen twice


def test_sparse_topk_has_the_gradient_of_dense_topk_and_a_part_of_its_size():
    base, extension = units(20, 30, 2, 4)
    weights = jax.random.normal(jax.random.key(5), (20, 240))

    def loss(base, extension, run):
        return jnp.square(dense(run(base, extension), 240) * weights).sum()

    def whole(base, extension):
        return topk(of_pre(kron.kron_pre(base, extension)), 8)

    def part(base, extension):
        return kron.kron_topk(base, extension, 8)

    for ours, theirs in zip(*(jax.jit(jax.grad(partial(loss, run=run), (0, 1)))(base, extension)
                              for run in (part, whole)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len(kron._candidates(8, 2, 4, 8)[0]) < 60


def planted(seed=0, n=300):
    """Pairs of orthonormal directions, (b_i + e_j) / sqrt 2 in 4 heads of 4 x 4; two heads of an example active."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    b, e = directions[:16].reshape(4, 4, 32), directions[16:].reshape(4, 4, 32)
    atoms = ((b[:, :, None] + e[:, None]) / np.sqrt(2)).reshape(64, 32)
    codes = np.zeros((n, 64))
    for row in codes:
        heads = rng.choice(4, 2, replace=False)
        row[heads * 16 + rng.integers(0, 16, 2)] = rng.uniform(0.5, 1.5, 2)
    return [jnp.asarray(a, jnp.float32) for a in (codes, atoms, b.reshape(16, 32), e.reshape(16, 32))]


def test_mand_has_an_exact_encoder_of_planted_pairs_and_the_product_has_not():
    codes, atoms, b, e = planted()
    x, zero = codes @ atoms, jnp.zeros((16,))

    def fvu(combine, run):
        base, extension = (kron.kron_units(x, np.sqrt(2) * w.T, zero, 4) for w in (b, e))
        y = dense(run(base, extension, 2, combine), 64) @ atoms
        return jnp.square(x - y).sum() / jnp.square(x - x.mean(0)).sum()

    values = jax.jit(lambda: {c: fvu(c, kron.kron_topk) for c in ("mand", "product")})()
    assert values["mand"] < 1e-6
    assert values["product"] > 0.01  # c^2 is not c


def test_what_does_not_fit_is_said():
    base, extension = units(2, 2, 3, 4)
    with pytest.raises(ValueError, match="choose k from 1 to 24"):
        kron.kron_topk(base, extension, 25)
    with pytest.raises(ValueError, match="combine is one of"):
        kron.kron_pre(base, extension, "or")
    with pytest.raises(ValueError, match="10 units cannot be shared by 4 heads"):
        kron.kron_units(jnp.zeros((2, 3)), jnp.zeros((3, 10)), jnp.zeros(10), 4)
    with pytest.raises(ValueError, match="do not fit an encoder for width 5"):
        kron.kron_units(jnp.zeros((2, 3)), jnp.zeros((5, 8)), jnp.zeros(8), 4)
