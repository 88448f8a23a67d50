"""Description length against closed forms: entropies of known laws, conditional codes, the step for an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.metrics import description_length as dl

RNG = np.random.default_rng(0)
BITS = jax.jit(dl.description_length, static_argnames=("correction", "block"))


def _h2(p):
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def test_spikes_with_uniform_values_cost_h2_and_their_bits():
    n, p, b, delta = 200_000, np.array([0.02, 0.1, 0.5]), 4, 0.3
    z = (RNG.random((n, 3)) < p) * RNG.uniform(0, 2**b * delta, (n, 3))
    expected = np.array([_h2(q) + q * b for q in p])
    found = BITS(z.astype(np.float32), delta)
    np.testing.assert_allclose(found.per_feature, expected, rtol=0.01)
    np.testing.assert_allclose(found.total, expected.sum(), rtol=0.01)
    np.testing.assert_allclose(jax.jit(dl.spike_bits, static_argnums=1)(p, b), expected, rtol=1e-5)


def test_the_entropy_is_that_of_the_histogram_with_negative_and_equal_values():
    z = np.round(RNG.standard_normal((500, 5)), 1) * (RNG.random((500, 5)) < 0.5)
    found = BITS(z.astype(np.float32), 0.25, block=2)
    for column, bits in zip(z.astype(np.float32).T, found.per_feature, strict=True):
        q = np.where(column != 0, np.floor(column / np.float32(0.25)) + 1000, 0)
        share = np.unique(q, return_counts=True)[1] / 500
        np.testing.assert_allclose(bits, -(share * np.log2(share)).sum(), rtol=1e-5)


def test_a_child_under_its_parent_costs_only_where_the_parent_is_active():
    n, p, q, b = 100_000, 0.3, 0.4, 3
    on = RNG.random((n, 1)) < p
    child = on & (RNG.random((n, 1)) < q)
    z = (np.concatenate([on, child], 1) * RNG.uniform(0, 2**b, (n, 2))).astype(np.float32)
    tree = BITS(z, 1.0, np.array([-1, 0]))
    np.testing.assert_allclose(tree.per_feature, [_h2(p) + p * b, p * (_h2(q) + q * b)], rtol=0.01)
    flat = BITS(z, 1.0)
    np.testing.assert_allclose(flat.per_feature[1], _h2(p * q) + p * q * b, rtol=0.01)
    assert flat.total > tree.total + 0.1


def test_a_tree_codes_every_column_exactly_even_where_a_child_fires_alone():
    z = (RNG.random((60, 4)) < 0.5) * RNG.integers(1, 4, (60, 4)).astype(np.float32)
    tree = np.array([-1, 0, 0, 2])
    found = BITS(z, 1.0, tree).per_feature
    for i, parent in enumerate(tree):
        on = z[:, parent] != 0 if parent >= 0 else np.zeros(60, bool)
        bits = 0.0
        for part in (z[on, i], z[~on, i]):
            count = np.unique(part, return_counts=True)[1]
            bits += -(count * np.log2(count / max(len(part), 1))).sum() / 60
        np.testing.assert_allclose(found[i], bits, rtol=1e-5)


def test_miller_and_madow_remove_the_bias_of_few_examples():
    z = RNG.integers(1, 65, (300, 200)).astype(np.float32)       # 64 equal values: 6 bits
    plain, mended = (BITS(z, 1.0, correction=c).per_feature.mean() for c in ("none", "miller_madow"))
    assert plain < 5.87 and abs(mended - 6) < 0.02


def test_quantised_codes_keep_their_zeros_and_lie_within_half_a_step():
    z = RNG.standard_normal((50, 8)).astype(np.float32) * (RNG.random((50, 8)) < 0.4)
    q = jax.jit(dl.quantize_codes)(z, 0.3)
    np.testing.assert_array_equal(q == 0, z == 0)
    assert np.abs(q - z).max() <= 0.15 + 1e-6
    assert len(np.unique(q)) < 30


def test_the_step_for_an_error_is_the_coarsest_one():
    atoms = np.linalg.qr(RNG.standard_normal((8, 8)))[0].astype(np.float32)   # orthogonal: the error is the codes'
    z = (RNG.uniform(0, 4, (4000, 8)) * (RNG.random((4000, 8)) < 0.5)).astype(np.float32)
    x = z @ atoms
    solve = jax.jit(lambda z, x, target: dl.delta_for_mse(lambda c: c @ atoms, z, x, target))
    target = 1e-3
    delta = float(solve(z, x, target))
    np.testing.assert_allclose(delta**2 / 12 * 0.5, target, rtol=0.03)        # uniform noise on the active half
    assert ((np.asarray(dl.quantize_codes(jnp.asarray(z), delta)) - z) ** 2).mean() <= target * 1.0001
    assert ((np.asarray(dl.quantize_codes(jnp.asarray(z), 1.05 * delta)) - z) ** 2).mean() > target
    assert np.isnan(solve(z, x + 1.0, target))                                # no step repairs the decoder
    np.testing.assert_allclose(solve(z, x, 100.0), z.max(), rtol=1e-5)


def test_the_shortest_feasible_description_is_chosen():
    n = 4000
    choice = RNG.integers(0, 16, n)
    truth = 3 * np.eye(16, dtype=np.float32)[choice]             # one of 16: 4 bits to say, less as one-hot features
    x = jnp.asarray(truth)
    q = jnp.asarray(np.linalg.qr(RNG.standard_normal((16, 16)))[0], jnp.float32)   # every coordinate active
    split = jnp.asarray(np.eye(64, dtype=np.float32)[choice * 4 + RNG.integers(0, 4, n)] * 3)   # features split in four
    to16 = jnp.asarray(np.repeat(np.eye(16, dtype=np.float32), 4, 0))
    poor = (lambda z: jnp.zeros_like(x), x)
    table = dl.mdl_select([(lambda z: z @ q.T, x @ q), (lambda z: z @ to16, split), (lambda z: z, x), poor], x, 0.01)
    assert table.best == 2 and np.isinf(table.bits[3]) and np.isnan(table.delta[3])
    np.testing.assert_allclose(table.bits[2], 16 * _h2(1 / 16), rtol=0.02)
    np.testing.assert_allclose(table.bits[1], 64 * _h2(1 / 64), rtol=0.03)
    np.testing.assert_allclose(table.l0, [16, 1, 1, 1])
    assert dl.mdl_select([poor], x, 0.01).best == -1
    mended = dl.mdl_select([(lambda z: z @ q.T, x @ q)], x, 0.01, correction="miller_madow")
    assert mended.bits[0] > table.bits[0]


def test_the_tree_of_cooccurrence_is_the_planted_one():
    from jaxae.data.dictionaries import feature_tree
    source, _ = feature_tree(branching=(4, 3), num_train=5000)
    codes = source.arrays()["factors"]
    found = dl.cooccurrence_tree(codes)
    np.testing.assert_array_equal(found, source.info["parents"])
    assert BITS(codes, 0.1, found).total < BITS(codes, 0.1).total - 1
    twins = np.repeat(codes[:, :1], 2, 1)
    assert (dl.cooccurrence_tree(np.c_[twins, 0 * twins]) == -1).all()     # equally frequent: no cycle; dead: a root


def test_splitting_gains_what_closed_forms_say():
    n, gain = 50_000, jax.jit(dl.splitting_gain)
    first, on = RNG.random(n) < 0.5, RNG.random(n) < 0.3
    plain = np.where(on, RNG.uniform(0, 8, n), 0).astype(np.float32)      # which child is active says nothing else
    children = np.stack([plain * first, plain * ~first], 1)
    np.testing.assert_allclose(gain(plain, children, 1.0), _h2(0.3) - 2 * _h2(0.15), atol=0.01)
    first = RNG.random(n) < 0.05                                          # a rare wide one and a constant one
    values = np.where(on, np.where(first, RNG.uniform(0, 64, n), 0.5), 0).astype(np.float32)
    together = gain(values, np.stack([values * first, values * ~first], 1), 1.0)
    p, q = 0.3 * 0.05, 0.3 * 0.95
    share = np.r_[1 - 0.3, q + p / 64, np.full(63, p / 64)]
    apart = _h2(p) + p * 6 + _h2(q)
    np.testing.assert_allclose(together, -(share * np.log2(share)).sum() - apart, atol=0.02)


def test_bits_of_the_plain_codes():
    assert dl.dense_bits(768, 7) == 5376
    np.testing.assert_allclose(dl.onehot_bits(2**14), 14)
    np.testing.assert_allclose(dl.naive_bits(3, 64, 8), 3 * 14)
    np.testing.assert_allclose(dl.decoder_bits(10, 20, 8, 400), 4)


@pytest.mark.parametrize("call, message", [
    (lambda: dl.description_length(jnp.ones((3, 2)), 1.0, jnp.zeros(3, int)), "a parent for each of 2"),
    (lambda: dl.description_length(jnp.ones((3, 2)), 1.0, correction="jackknife"), "'miller_madow'"),
])
def test_wrong_calls_get_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
