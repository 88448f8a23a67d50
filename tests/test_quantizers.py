"""Vector quantization against brute force, closed-form gradients and k-means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from jaxae import quantizers

REPLICAS = 8


def brute_force(z, codebook):
    z, codebook = np.asarray(z, np.float64), np.asarray(codebook, np.float64)
    return ((z[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)


@pytest.mark.parametrize("shape, k", [((7,), 5), ((3, 7, 7), 64), ((1100,), 33), ((2, 2048), 200), ((4099,), 16)])
def test_nearest_code_is_brute_force_for_every_chunking(shape, k):
    keys = jax.random.split(jax.random.key(0), 2)
    z, codebook = jax.random.normal(keys[0], (*shape, 6)), jax.random.normal(keys[1], (k, 6))
    found = jax.jit(quantizers.nearest_code)(z, codebook)
    np.testing.assert_array_equal(found, brute_force(z, codebook))


def test_ties_go_to_the_lowest_index():
    codebook = jnp.array([[1.0], [0.0], [0.0], [1.0]])
    assert jax.jit(quantizers.nearest_code)(jnp.array([[0.2], [0.8]]), codebook).tolist() == [1, 0]


def test_bfloat16_vectors_are_compared_in_float32():
    # In bfloat16 both squared distances would round to the same number.
    codebook = jnp.array([[100.0], [100.5]])
    z = jnp.array([[100.0], [100.5]], jnp.bfloat16)
    assert jax.jit(quantizers.nearest_code)(z, codebook).tolist() == [0, 1]


def test_lookup_of_indices_is_the_quantized_value():
    keys = jax.random.split(jax.random.key(1), 2)
    z, codebook = jax.random.normal(keys[0], (5, 4, 3)), jax.random.normal(keys[1], (16, 3))
    quantized = jax.jit(quantizers.vector_quantize)(z, codebook)
    np.testing.assert_allclose(quantizers.lookup(quantized.indices, codebook), quantized.z_q, atol=1e-6)
    np.testing.assert_array_equal(quantizers.nearest_code(codebook, codebook), np.arange(16))


def test_gradients_are_the_closed_form_of_the_paper():
    """Linear decoder W and MSE: the decoder's gradient reaches z and not the codes, the codebook loss the codes
    only, the commitment loss (with beta) z only, and codes that nothing chose get none."""
    n, d, m, k, beta = 12, 4, 5, 9, 0.25
    keys = jax.random.split(jax.random.key(2), 4)
    z, codes = jax.random.normal(keys[0], (n, d)), 2.0 * jax.random.normal(keys[1], (k, d))
    decoder, x = jax.random.normal(keys[2], (m, d)), jax.random.normal(keys[3], (n, m))

    def loss(z, codes, decoder):
        q = quantizers.vector_quantize(z, codes)
        reconstruction = jnp.sum((q.z_q @ decoder.T - x) ** 2, -1)
        return jnp.mean(reconstruction + q.codebook_loss * d + beta * q.commitment_loss * d)

    by_z, by_codes, by_decoder = jax.jit(jax.grad(loss, (0, 1, 2)))(z, codes, decoder)
    index = brute_force(z, codes)
    e = np.asarray(codes)[index]
    residual = e @ np.asarray(decoder).T - np.asarray(x)
    np.testing.assert_allclose(by_z, 2 / n * residual @ np.asarray(decoder) + 2 * beta / n * (np.asarray(z) - e),
                               rtol=1e-4, atol=1e-6)
    expected = np.zeros((k, d))
    np.add.at(expected, index, 2 / n * (e - np.asarray(z)))
    np.testing.assert_allclose(by_codes, expected, rtol=1e-4, atol=1e-6)
    unused = np.setdiff1d(np.arange(k), index)
    assert unused.size and not np.any(np.asarray(by_codes)[unused])
    np.testing.assert_allclose(by_decoder, 2 / n * residual.T @ e, rtol=1e-4, atol=1e-5)


def test_width_mismatch_says_what_to_change():
    with pytest.raises(ValueError, match="width 3, the codebook holds width 4"):
        quantizers.nearest_code(jnp.zeros((2, 3)), jnp.zeros((5, 4)))


def test_ema_update_is_the_papers_recursion():
    keys = jax.random.split(jax.random.key(3), 2)
    z, codes = jax.random.normal(keys[0], (50, 2)), jax.random.normal(keys[1], (4, 2))
    state = quantizers.ema_codebook(codes)
    index = brute_force(z, codes)
    new = jax.jit(lambda s, z, i: quantizers.ema_update(s, z, i, decay=0.9))(state, z, jnp.asarray(index))
    counts = 0.9 + 0.1 * np.bincount(index, minlength=4)
    sums = 0.9 * np.asarray(codes)
    np.add.at(sums, index, 0.1 * np.asarray(z))
    smoothed = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    np.testing.assert_allclose(new.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(new.codes, sums / smoothed[:, None], rtol=1e-4)


def test_an_unused_code_stays_where_it_is_and_finite():
    state = quantizers.ema_codebook(jnp.array([[0.0], [50.0]]))
    step = jax.jit(lambda s, z: quantizers.ema_update(s, z, quantizers.nearest_code(z, s.codes)))
    for i in range(200):
        state = step(state, 0.1 * jax.random.normal(jax.random.key(i), (16, 1)))
    np.testing.assert_allclose(state.codes[1], 50.0, rtol=0.02)


def test_ema_codebook_is_online_kmeans():
    """Ten planted means: after 300 batches codes lie within 3 standard errors of them, inertia within 2% of
    scikit-learn's."""
    means = np.stack([[i % 5, i // 5] for i in range(10)]).astype(np.float32) * 4.0
    noise, rng = 0.3, np.random.default_rng(0)

    def draw(n):
        chosen = rng.integers(0, 10, n)
        return (means[chosen] + noise * rng.normal(size=(n, 2))).astype(np.float32)

    # One example of each component: data initialisation that a planted problem allows.
    state = quantizers.ema_codebook(jnp.asarray(means + noise * rng.normal(size=(10, 2)), jnp.float32))
    step = jax.jit(lambda s, z: quantizers.ema_update(s, z, quantizers.nearest_code(z, s.codes)))
    for _ in range(300):
        state = step(state, draw(256))
    # The moving average sees some (1+g)/(1-g) = 199 batches of 25.6 vectors a component.
    standard_error = noise / np.sqrt(199 * 25.6)
    error = np.asarray(state.codes) - means
    assert np.abs(error).max() < 4 * standard_error  # 20 numbers: the largest of them is allowed one more
    assert np.sqrt((error**2).mean()) < 1.5 * standard_error
    sample = draw(5000)
    reference = KMeans(10, n_init=10, random_state=0).fit(sample).inertia_
    index = brute_force(sample, state.codes)
    inertia = ((sample - np.asarray(state.codes)[index]) ** 2).sum()
    assert inertia < 1.02 * reference


def test_a_revived_code_starts_afresh_and_is_not_pulled_back():
    state = quantizers.ema_codebook(jnp.array([[0.0], [1000.0]]))
    state = state._replace(counts=jnp.array([10.0, 1e-3]), sums=jnp.array([[0.0], [1.0]]))
    z = 1.0 + 0.1 * jax.random.normal(jax.random.key(0), (64, 1))
    revived = jax.jit(lambda s, k: quantizers.revive(s, z, k, threshold=0.5))(state, jax.random.key(1))
    assert revived.codes[0] == 0.0 and np.isin(np.asarray(revived.codes[1]), np.asarray(z)).all()
    after = quantizers.ema_update(revived, z, quantizers.nearest_code(z, revived.codes))
    assert abs(float(after.codes[1, 0]) - 1.0) < 0.3
    again = quantizers.revive(after, z, jax.random.key(2), threshold=0.5)
    np.testing.assert_array_equal(again.codes, after.codes)


def test_kmeans_reaches_scikit_learns_inertia_and_refuses_too_few_vectors():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 2)), jnp.float32)
    planted = jnp.asarray(np.stack([[i % 5, i // 5] for i in range(10)]) * 9.0, jnp.float32)
    seeds = planted[jax.random.randint(jax.random.key(1), (500,), 0, 10)]
    found = jax.jit(lambda k: quantizers.kmeans(seeds, 10, k, 1))(jax.random.key(2))
    assert len(np.unique(np.asarray(found), axis=0)) == 10  # rows that stand on a seed are never drawn again
    best = min(float(((np.asarray(x) - np.asarray(c)[brute_force(x, c)]) ** 2).sum()) for c in
               jax.jit(jax.vmap(lambda k: quantizers.kmeans(x, 8, k, 50)))(jax.random.split(jax.random.key(0), 40)))
    assert best < 1.02 * KMeans(8, n_init=10, random_state=0).fit(x).inertia_
    with pytest.raises(ValueError, match="3 vectors, 8 codes"):
        quantizers.kmeans(jnp.zeros((3, 2)), 8, jax.random.key(0))


@pytest.mark.parametrize("function", ["ema", "revive", "rows"])
def test_batch_statistics_are_global_over_replicas(function):
    keys = jax.random.split(jax.random.key(5), 3)
    z = jax.random.normal(keys[0], (64, 3))
    state = quantizers.ema_codebook(jax.random.normal(keys[1], (10, 3)))
    state = state._replace(counts=state.counts.at[3:].set(1e-3))

    def compute(z, axis_name=None):
        if function == "rows":
            return quantizers.sample_rows(z, keys[2], 20, axis_name)
        if function == "revive":
            return quantizers.revive(state, z, keys[2], 0.5, axis_name)
        return quantizers.ema_update(state, z, quantizers.nearest_code(z, state.codes), axis_name=axis_name)

    one = jax.jit(compute)(z)
    many = jax.pmap(lambda z: compute(z, "r"), "r")(z.reshape(REPLICAS, -1, 3))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        for replica in np.asarray(b):
            np.testing.assert_allclose(a, replica, rtol=1e-5, atol=1e-6)
