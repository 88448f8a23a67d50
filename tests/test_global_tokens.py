"""Global tokens: the transpose path, a codebook per token, closed-form gradients, and cells that split."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxae.quantizers import Codes, ema_codebook, ema_update
from jaxae.quantizers.global_tokens import (
    global_tokens,
    inverse_global_tokens,
    per_token,
    per_token_ema,
    per_token_vq,
    prefix_dropout_mask,
    principal_projections,
    voronoi_reset,
)

KEY = jax.random.key(0)
N, C, K, D = 16, 3, 6, 4


def normal(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_identity_projections_give_the_features_back_and_tokens_are_channels():
    features = normal((2, 3, 5, 6))
    eye = jnp.tile(jnp.eye(15), (2, 1, 1))
    tokens = jax.jit(global_tokens)(features, eye)
    np.testing.assert_allclose(tokens, np.asarray(features).reshape(2, 15, 6).swapaxes(1, 2), atol=1e-6)
    back = jax.jit(lambda t: inverse_global_tokens(t, eye, 3))(tokens)
    np.testing.assert_allclose(back, features, atol=1e-6)


def test_each_head_projects_its_own_run_of_channels():
    features, down, up = normal((2, 2, 3, 6)), normal((3, 6, 4), 1), normal((3, 4, 6), 2)
    tokens = jax.jit(global_tokens)(features, down)
    flat = np.asarray(features).reshape(2, 6, 6)
    for c in range(6):
        np.testing.assert_allclose(tokens[:, c], flat[:, :, c] @ np.asarray(down[c // 2]), atol=1e-5)
    back = np.asarray(jax.jit(lambda t: inverse_global_tokens(t, up, 2))(tokens)).reshape(2, 6, 6)
    for c in range(6):
        np.testing.assert_allclose(back[:, :, c], np.asarray(tokens[:, c] @ up[c // 2]), atol=1e-4)


def test_alike_channels_lose_the_smallest_eigenvalues_and_no_more():
    """There and back by the heads' projections, summed over heads: the error is what principal components leave."""
    maps = normal((50, 12)) * jnp.linspace(0.1, 2.0, 12) + 0.3
    down = jax.jit(principal_projections, static_argnums=(1, 2))(maps, 3, 2, KEY)
    tokens = global_tokens(jnp.repeat(maps.reshape(50, 3, 4, 1), 3, -1), down)
    back = inverse_global_tokens(tokens, down.swapaxes(1, 2), 3).sum(-1).reshape(50, 12)
    spectrum = np.linalg.svd(np.asarray(maps, np.float64), compute_uv=False)**2
    np.testing.assert_allclose(jnp.square(maps - back).sum(), spectrum[6:].sum(), rtol=1e-4)


def test_moving_averages_of_every_token_are_its_own():
    quantizer = per_token_ema(C, D, K, beta=0.5, decay=0.8, revive=0.0, start="normal")
    state, z = quantizer.init(KEY), normal((N, C, D), 1)
    got = jax.jit(quantizer.quantize, static_argnums=3)(z, state, KEY, True)
    indices, codes = brute_force(z, state.moving.codes)
    np.testing.assert_array_equal(got.indices, indices)
    np.testing.assert_allclose(got.z_q, codes, atol=1e-6)
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(got.indices, state), codes, atol=1e-6)
    np.testing.assert_allclose(got.loss, 0.5 * np.square(np.asarray(z) - codes).mean((1, 2)), rtol=1e-5)
    for c in range(C):
        want = ema_update(ema_codebook(state.moving.codes[c]), z[:, c], got.indices[:, c], 0.8)
        np.testing.assert_allclose(got.state.moving.codes[c], want.codes, atol=1e-5)


def brute_force(z, codebooks):
    z, codebooks = np.asarray(z, np.float64), np.asarray(codebooks, np.float64)
    indices = ((z[:, :, None] - codebooks)**2).sum(-1).argmin(-1)
    return indices, codebooks[np.arange(codebooks.shape[0]), indices]


def test_every_token_is_quantized_by_its_own_codebook():
    quantizer = per_token(C, D, K)
    state, z = quantizer.init(KEY), 0.5 * normal((N, C, D))
    indices, codes = brute_force(z, state.learned)
    got = jax.jit(quantizer.quantize, static_argnums=3)(z, state, KEY, True)
    np.testing.assert_array_equal(got.indices, indices)
    np.testing.assert_allclose(got.z_q, codes, atol=1e-6)
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(got.indices, state), got.z_q, atol=1e-6)
    squared = ((np.asarray(z) - codes)**2).mean((1, 2))
    np.testing.assert_allclose(got.loss, (0.25 + 1.0) * squared, rtol=1e-5)
    kept = quantizer.quantize(z, state, KEY, False).state
    jax.tree.map(np.testing.assert_array_equal, kept, state)


def test_accumulated_magnitudes_are_those_of_the_gradient():
    """Of the mean loss of the batch, with a decoder beside it, summed over two batches; 0 where nothing chose."""
    quantizer = per_token(C, D, K, codebook_weight=0.7)
    batches = 0.5 * normal((2, N, C, D))

    def loss(learned, state, z):
        found = quantizer.quantize(z, state._replace(learned=learned), KEY, True)
        return (found.loss + (found.z_q**3).sum((1, 2))).mean(), found.state

    step = jax.jit(jax.grad(loss, has_aux=True))
    state, total = quantizer.init(KEY), np.zeros((C, K))
    state = state._replace(learned=state.learned.at[0, 1].set(9.0).at[2, 4].set(-9.0))
    for z in batches:
        slope, state = step(state.learned, state, z)
        total += np.abs(slope).mean(-1)
    np.testing.assert_allclose(state.moving.total, total, rtol=1e-5, atol=1e-9)
    used = np.zeros((C, K), bool)
    for z in batches:
        used[np.arange(C), brute_force(z, state.learned)[0]] = True
    np.testing.assert_array_equal(np.asarray(state.moving.total) > 0, used)
    assert used.any() and not used[0, 1] and not used[2, 4] and state.moving.batches == 2


def reset_by_turns(codebooks, magnitudes, epsilon=1e-6):
    """The algorithm as a loop: which code stands beside which, [c k]; itself where it stays."""
    partner = np.tile(np.arange(magnitudes.shape[1]), (len(magnitudes), 1))
    for c, row in enumerate(magnitudes.astype(np.float64).copy()):
        while row.min() == 0 and row.max() > epsilon:
            unused, busy = row.argmin(), row.argmax()
            partner[c, unused] = busy
            row[unused] = row[busy] = epsilon
    return partner


def test_reset_pairs_unused_codes_with_the_hardest_pulled_one_by_one():
    rng = np.random.default_rng(0)
    magnitudes = rng.exponential(size=(40, 7)) * (rng.uniform(size=(40, 7)) < rng.uniform(size=(40, 1)))
    magnitudes[0], magnitudes[1], magnitudes[2] = 0.0, 1.0, [0, 1e-7, 0, 0, 2, 2, 0]  # none used, all used, few busy
    codebooks = normal((40, 7, 3))
    moved = np.asarray(jax.jit(voronoi_reset)(codebooks, magnitudes.astype(np.float32), KEY))
    partner = reset_by_turns(codebooks, magnitudes)
    assert partner[2].tolist() == [4, 1, 5, 3, 4, 5, 6]
    apart = np.abs(moved - np.take_along_axis(np.asarray(codebooks), partner[..., None], 1))
    stays = partner == np.arange(7)
    assert (apart[stays] == 0).all() and 0.5e-4 < apart[~stays].max() <= 1.01e-4 and (~stays).sum() > 30


def test_reset_comes_when_due_clears_the_magnitudes_and_brings_codes_into_use():
    """One busy code of sixteen: every reset doubles the used ones, where gradient descent alone leaves fifteen idle."""
    planted = jnp.stack(jnp.meshgrid(*[jnp.array([2.0, 3.0])] * 4), -1).reshape(16, 4)

    def used(reset_every):
        quantizer = per_token(1, 4, 16, codebook_weight=1.0, reset_every=reset_every)

        def step(state, key):
            z = planted[jax.random.randint(key, (256, 1), 0, 16)] + 0.05 * jax.random.normal(key, (256, 1, 4))

            def loss(learned):
                found = quantizer.quantize(z, state._replace(learned=learned), key, True)
                return found.loss.mean(), found

            slope, found = jax.grad(loss, has_aux=True)(state.learned)
            state = Codes(state.learned - 1.0 * slope, found.state.moving)
            return (quantizer.after(state, key) if reset_every else state), found.indices

        return jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(
            quantizer.init(KEY), jax.random.split(KEY, 320))

    state, indices = used(40)
    assert state.moving.batches == 0 and not state.moving.total.any()  # 320 is the eighth reset
    assert len(np.unique(indices[-40:])) >= 8
    state, indices = used(0)
    assert state.moving == () and len(np.unique(indices[-40:])) <= 2


def test_prefix_masks_keep_a_prefix_of_uniform_length_in_a_third_of_the_examples():
    masks = np.asarray(jax.jit(lambda key: prefix_dropout_mask(key, 30_000, 5))(KEY))
    lengths = masks.sum(1).astype(int)
    np.testing.assert_array_equal(masks, np.arange(5) < lengths[:, None])
    share = np.bincount(lengths, minlength=6) / 30_000
    np.testing.assert_allclose(share, [0, 1 / 12, 1 / 12, 1 / 12, 1 / 12, 2 / 3], atol=4 * np.sqrt(2 / 9 / 30_000))


def test_eight_devices_have_the_magnitudes_masks_and_gradients_of_one():
    z = 0.5 * normal((N, C, D)) + jnp.linspace(-1.0, 1.0, N)[:, None, None]
    state = per_token(C, D, K).init(KEY)

    def step(learned, z, axis_name=None):
        quantizer = per_token(C, D, K, axis_name=axis_name)

        def loss(learned):
            found = quantizer.quantize(z, state._replace(learned=learned), KEY, True)
            mask = prefix_dropout_mask(KEY, z.shape[0], C, 0.5, axis_name)
            return (found.loss + (found.z_q * mask[..., None]).sum((1, 2))).mean(), (mask, found)

        slope, (mask, found) = jax.grad(loss, has_aux=True)(learned)
        return (slope, found.state.moving), (mask, found.loss)

    one = jax.jit(step)(state.learned, z)
    mesh = jax.make_mesh((8,), ("r",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = PartitionSpec("r"), PartitionSpec()

    def mean_gradient(out):
        return (jax.lax.pmean(out[0][0], "r"), out[0][1]), out[1]

    mapped = jax.jit(jax.shard_map(lambda e, z: mean_gradient(step(e, z, "r")), mesh=mesh, in_specs=(whole, rows),
                                   out_specs=(whole, rows), check_vma=False))(state.learned, z)
    replicas = jax.pmap(lambda z: mean_gradient(step(state.learned, z, "r")), "r")(z.reshape(8, 2, C, D))
    pmapped = jax.tree.map(lambda x: x[3], replicas[0]), jax.tree.map(lambda x: x.reshape(N, *x.shape[2:]), replicas[1])
    spread = jax.jit(step)(state.learned, jax.device_put(z, NamedSharding(mesh, rows)))
    for other in (spread, mapped, pmapped):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other, one)


def test_bad_input_is_told_what_to_do():
    with pytest.raises(ValueError, match="wants 8 places, not 9"):
        global_tokens(jnp.zeros((1, 3, 3, 4)), jnp.zeros((2, 8, 5)))
    with pytest.raises(ValueError, match="the height 3 the 8 places"):
        inverse_global_tokens(jnp.zeros((1, 4, 5)), jnp.zeros((2, 5, 8)), 3)
    with pytest.raises(ValueError, match="2 tokens of width 4, the codebooks are for 3 of width 4"):
        per_token_vq(jnp.zeros((1, 2, D)), jnp.zeros((C, K, D)))
    with pytest.raises(ValueError, match="3 tokens of width 5, the codebooks are for 3 of width 4"):
        per_token_vq(jnp.zeros((1, C, 5)), jnp.zeros((C, K, D)))
    with pytest.raises(ValueError, match="at least two"):
        prefix_dropout_mask(KEY, 4, 1)
