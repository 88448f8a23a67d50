"""Product and residual quantizers against hand loops, decimal digits and the chain rule."""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_codebooks import KEY, check_layouts, normal, step_of

from jaxae import quantizers
from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.codebook import CodeUse, vector
from jaxae.quantizers.combine import product, residual
from jaxae.quantizers.estimators import rotate_to, straight_through
from jaxae.quantizers.gumbel import gumbel

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "quantizers.npz")


def rounding(width=1, bound=lambda z: z):
    """The nearest integer in 0 ... 9 of one bounded channel: a quantizer without state, as scalar ones are."""
    def quantize(z, state, key, train):
        bounded = bound(z)
        rounded = jnp.clip(jnp.floor(bounded + 1e-4), 0, 9)
        return Quantized(straight_through(bounded, rounded), rounded[..., 0].astype(jnp.int32), jnp.zeros(z.shape[0]),
                         state)

    return Quantizer(width, 10, 1, lambda key: Codes(), quantize,
                     lambda indices, state: indices[..., None].astype(jnp.float32))


def stacked(start):
    return Codes((), jax.vmap(quantizers.ema_codebook)(jnp.asarray(start)))


def test_stages_with_scales_are_decimal_digits_and_heads_read_from_the_left():
    """A residual of integers with scales 1, 1/10, 1/100 writes numbers; two heads write two; no state anywhere."""
    digits = residual(rounding(), 3, scales=(1.0, 0.1, 0.01))
    numbers = product(digits, 2)
    assert (numbers.width, numbers.codes, numbers.places) == (2, 10, 6)
    assert numbers.start is None and numbers.after is None
    state = numbers.init(KEY)
    z = jnp.array([[[3.14, 2.71], [0.07, 9.99]]])
    found = jax.jit(partial(numbers.quantize, train=True))(z, state, KEY)
    assert found.indices.tolist() == [[[3, 1, 4, 2, 7, 1], [0, 0, 7, 9, 9, 9]]]
    np.testing.assert_allclose(found.z_q, z, atol=1e-5)
    everything = jnp.stack(jnp.meshgrid(*[jnp.arange(10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    values = jax.jit(digits.lookup)(everything, state)
    np.testing.assert_allclose(values[:, 0], np.arange(1000) / 100, atol=1e-5)
    again = jax.jit(partial(digits.quantize, train=False))(values, state, KEY)
    np.testing.assert_array_equal(again.indices, everything)


def test_residual_is_a_hand_loop_and_as_its_peer_except_for_the_gradient():
    """Stage after stage by hand: indices, sum, losses, states. vector-quantize-pytorch has these values, and `depth`
    times the straight-through gradient at z; here it arrives once, and each stage's commitment beside it."""
    start, x, g = (GOLDEN[f"residual/{name}"] for name in ("start", "x", "g"))
    depth, beta = len(start), 0.3
    stage = vector(8, 4, decay=0.8, beta=beta, revive=0.0)
    quantizer, state = residual(stage, depth), stacked(start)
    found, _, by_z = step_of(quantizer)(g, state, x, KEY)
    left, total, loss, pull = jnp.asarray(x), 0.0, 0.0, 0.0
    run = jax.jit(partial(stage.quantize, train=True))
    for i in range(depth):
        one = run(left, jax.tree.map(lambda s, i=i: s[i], state), KEY)
        np.testing.assert_array_equal(found.indices[..., i], one.indices)
        of_stage = jax.tree.map(lambda s, i=i: s[i], found.state)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), of_stage, one.state)
        left, total, loss = left - one.z_q, total + one.z_q, loss + one.loss
        pull = pull + 2 * beta * np.asarray(left) / (3 * 10 * 4)
    np.testing.assert_allclose(found.z_q, total, atol=1e-6)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(found.indices, state), found.z_q, atol=1e-5)
    np.testing.assert_allclose(by_z, g / 3 + pull, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.indices, GOLDEN["residual/indices"])
    np.testing.assert_allclose(found.z_q, GOLDEN["residual/z_q"], atol=1e-5)
    np.testing.assert_allclose(found.loss.mean(), beta * GOLDEN["residual/commitments"].sum(), rtol=1e-5)
    np.testing.assert_allclose(found.state.moving.codes, GOLDEN["residual/codes"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(GOLDEN["residual/gradient"], depth * g, rtol=1e-4)


def test_gradients_of_stages_that_are_not_straight_through_obey_the_chain_rule():
    """With q_i = Q(r_i) of slope J_i, r_{i+1} = r_i - q_i leaves dz_q/dz = 1 - prod_i (1 - J_i)."""
    slope = 0.3
    quantizer = residual(rounding(bound=lambda z: slope * z), 3, scales=(1.0, 0.1, 0.01))
    g = jnp.ones((4, 1))
    _, _, by_z = step_of(quantizer)(g, quantizer.init(KEY), 3.0 + normal(0, 4, 1), KEY)
    np.testing.assert_allclose(4 * by_z, 1 - (1 - slope) ** 3, rtol=1e-5)


def test_rotation_belongs_between_z_and_the_sum():
    start, x, g = (GOLDEN[f"residual/{name}"] for name in ("start", "x", "g"))
    quantizer = residual(vector(8, 4, beta=0.0, revive=0.0), 3, estimator="rotation")
    found, _, by_z = step_of(quantizer)(g, stacked(start), x, KEY)
    np.testing.assert_allclose(found.z_q, GOLDEN["residual/z_q"], atol=1e-5)
    pull = jax.jit(lambda z, z_q, g: jax.vjp(lambda z: rotate_to(z, z_q), z)[1](g)[0])
    np.testing.assert_allclose(3 * by_z, pull(x, GOLDEN["residual/z_q"], g), rtol=1e-3, atol=1e-5)


def test_a_decoder_still_moves_the_codes_of_gumbel_stages():
    """Two stages against autodiff of the equations; and one stage is the quantizer itself, gradients and all."""
    stage = gumbel(5, 2, logits="distance", kl_weight=0.1)
    quantizer = residual(stage, 2)
    state, z, g = quantizer.init(KEY), normal(1, 7, 2), normal(99, 7, 2)
    found, by_learned, by_z = step_of(quantizer)(g, state, z, KEY)

    def by_hand(learned, z):
        keys = jax.random.split(jax.random.split(KEY, 3)[2], 2)
        first, second = (Codes({"codes": codes}) for codes in learned["codes"])
        a = stage.quantize(z, first, keys[0], True)
        b = stage.quantize(z - a.z_q, second, keys[1], True)
        detached = stage.quantize(z - jax.lax.stop_gradient(a.z_q), second, keys[1], True)
        return jnp.mean(a.loss + detached.loss + jnp.sum((a.z_q + b.z_q) * g, -1)), (a.indices, b.indices)

    (by_learned_hand, by_z_hand), indices = jax.jit(jax.grad(by_hand, (0, 1), has_aux=True))(state.learned, z)
    np.testing.assert_array_equal(found.indices, jnp.stack(indices, -1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), (by_learned, by_z),
                 (by_learned_hand, by_z_hand))


def test_residual_starts_stage_after_stage_and_errs_less_the_deeper_it_is():
    x, depth = normal(2, 600, 3), 4
    stage = vector(8, 3)
    quantizer = residual(stage, depth)
    state = jax.jit(lambda x: quantizer.start(x, quantizer.init(KEY), KEY))(x)
    indices = np.asarray(jax.jit(partial(quantizer.quantize, train=False))(x, state, KEY).indices)
    look = jax.jit(quantizer.lookup)
    rests = [np.asarray(x - look(np.where(np.arange(depth) < m, indices, -1), state)) for m in range(depth + 1)]
    errors = [np.mean(rest**2) for rest in rests]
    assert all(b < 0.55 * a for a, b in zip(errors, errors[1:], strict=False)), errors
    for i in range(depth):  # k-means: every code is the mean of what chooses it
        for j in np.unique(indices[:, i])[:3]:
            np.testing.assert_allclose(state.moving.codes[i, j], rests[i][indices[:, i] == j].mean(0), atol=0.1)


def test_a_shared_codebook_is_updated_once_from_all_stages():
    stage, depth = vector(6, 2, decay=0.8, revive=0.0, start="data"), 3
    quantizer, z = residual(stage, depth, shared=True), normal(3, 8, 5, 2)
    codes = normal(4, 6, 2)
    state = Codes((), quantizers.ema_codebook(codes))
    found = jax.jit(partial(quantizer.quantize, train=True))(z, state, KEY)
    left, rests = z, []
    for i in range(depth):
        rests.append(left)
        left = left - codes[found.indices[..., i]]
    np.testing.assert_allclose(found.z_q, z - left, atol=1e-5)
    expected = quantizers.ema_update(state.moving, jnp.stack(rests, -2), found.indices, 0.8)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found.state.moving, expected)
    x = np.asarray(normal(5, 90, 2))
    started = np.asarray(jax.jit(lambda x: quantizer.start(x, state, KEY))(x).moving.codes)
    own = (np.abs(x - started[:, None]).sum(-1) < 1e-6).any(1)  # codes are vectors or what a stage left of them
    assert own.any() and not own.all()


def test_dropout_leaves_the_last_stages_out_of_a_batch_of_training():
    depth, n = 4, 400
    stage = vector(5, 2, decay=0.5, revive=0.0)
    quantizer, z = residual(stage, depth, dropout=0.8), normal(6, 3, 2)
    state = stacked(normal(7, depth, 5, 2))

    @jax.jit
    @jax.vmap
    def run(key):
        found = quantizer.quantize(z, state, key, True)
        moved = jnp.any(found.state.moving.counts != state.moving.counts, axis=-1)
        return found, moved, quantizer.lookup(found.indices, state)

    found, moved, looked_up = run(jax.random.split(KEY, n))
    kept = np.asarray(found.indices[:, 0] >= 0)  # [n depth], one pattern a batch
    np.testing.assert_array_equal(found.indices >= 0, np.broadcast_to(kept[:, None], found.indices.shape))
    np.testing.assert_array_equal(moved, kept)
    np.testing.assert_allclose(found.z_q, looked_up, atol=1e-5)
    last = kept.sum(1)
    np.testing.assert_array_equal(kept, np.arange(depth) < last[:, None])
    p = np.array([0.2, 0.2, 0.2, 0.2 + 0.2])
    assert ((np.bincount(last, minlength=5)[1:] - n * p) ** 2 / (n * p)).sum() < 21.0  # chi-square, 3 degrees
    full = jax.jit(partial(quantizer.quantize, train=False))(z, state, KEY)
    assert (full.indices >= 0).all()
    jax.tree.map(np.testing.assert_array_equal, full.state, state)
    shortest = found.loss[last == 1][0]
    np.testing.assert_allclose(shortest, 0.25 * jnp.mean((z - state.moving.codes[0][full.indices[:, 0]]) ** 2, -1),
                               rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_product_is_as_many_lookups(shared):
    heads, stage = 3, vector(7, 2, decay=0.8, beta=0.5, revive=0.0)
    quantizer, z = product(stage, heads, shared), normal(8, 6, 4, 6)
    codes = normal(9, heads, 7, 2)
    state = Codes((), quantizers.ema_codebook(codes[0])) if shared else stacked(codes)
    g = normal(99, 6, 4, 6)
    found, _, by_z = step_of(quantizer)(g, state, z, KEY)
    parts = z.reshape(6, 4, heads, 2)
    look = jax.jit(quantizers.vector_quantize)
    hands = [look(parts[..., h, :], codes[0 if shared else h]) for h in range(heads)]
    np.testing.assert_array_equal(found.indices, jnp.stack([hand.indices for hand in hands], -1))
    z_q = jnp.concatenate([hand.z_q for hand in hands], -1)
    np.testing.assert_allclose(found.z_q, z_q, atol=1e-6)
    # Means over channels: a product's loss is that of one wide vector.
    np.testing.assert_allclose(found.loss, 0.5 * jnp.mean((z - z_q) ** 2, (1, 2)), rtol=1e-5)
    np.testing.assert_allclose(by_z, (g + 0.5 * 2 * (z - z_q) / 24) / 6, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(found.indices, state), z_q, atol=1e-6)
    if shared:
        expected = quantizers.ema_update(state.moving, parts, found.indices, 0.8)
        np.testing.assert_allclose(found.state.moving.codes, expected.codes, rtol=1e-5, atol=1e-6)
    else:
        update = jax.jit(lambda *of_head: quantizers.ema_update(*of_head, 0.8))
        expected = [update(quantizers.ema_codebook(codes[h]), parts[..., h, :], hands[h].indices)
                    for h in range(heads)]
        np.testing.assert_allclose(found.state.moving.codes, jnp.stack([e.codes for e in expected]), rtol=1e-5,
                                   atol=1e-6)


def test_grouped_residual_of_gradient_codebooks_starts_learns_and_revives():
    """product(residual(vector)): every state by head and stage, each codebook with the gradient of its own stage."""
    quantizer = product(residual(vector(4, 2, codebook="gradient", start="data", revive=0.5), 2), 3)
    assert (quantizer.width, quantizer.codes, quantizer.places) == (6, 4, 6)
    state, z = quantizer.init(KEY), normal(10, 9, 2, 6)
    state = jax.jit(quantizer.start)(z.reshape(-1, 6), state, KEY)
    assert state.learned.shape == (3, 2, 4, 2)
    vectors = np.asarray(z.reshape(-1, 3, 2))
    for h in range(3):
        for code in np.asarray(state.learned[h, 0]):
            assert (np.abs(vectors[:, h] - code).sum(-1) < 1e-6).any()
    found, by_codes, _ = step_of(quantizer)(normal(99, 9, 2, 6), state, z, KEY)
    expected, errors = np.zeros((3, 2, 4, 2)), 0.0
    for h in range(3):
        left = vectors[:, h]
        for i in range(2):
            index = np.asarray(found.indices).reshape(-1, 3, 2)[:, h, i]
            chosen = np.asarray(state.learned[h, i])[index]
            np.add.at(expected[h, i], index, 2 * (chosen - left) / left.size / 3)
            left = left - chosen
            errors += (left**2).mean() / 3
    np.testing.assert_allclose(by_codes, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.loss.mean(), 1.25 * errors, rtol=1e-5)
    tired = found.state._replace(moving=CodeUse(jnp.ones((3, 2, 4)).at[1, 0, 2].set(0.0), found.state.moving.fresh))
    revived = quantizer.after(tired, KEY)
    changed = jnp.any(revived.learned != state.learned, -1)
    assert np.argwhere(np.asarray(changed)).tolist() == [[1, 0, 2]]
    np.testing.assert_array_equal(revived.learned[1, 0, 2], found.state.moving.fresh[1, 0, 2])


def test_a_training_step_is_that_of_one_device_on_eight():
    def make(axis):
        return product(residual(vector(6, 2, revive=0.5, axis_name=axis), 2, shared=True, dropout=0.5), 2)

    state = stacked(normal(11, 2, 6, 2))
    state = state._replace(moving=state.moving._replace(counts=state.moving.counts.at[:, 3:].set(0.1)))
    check_layouts(make, state, normal(12, 16, 3, 4), jax.random.key(4))


def test_bad_options_are_told_what_to_do():
    with pytest.raises(ValueError, match="3 heads of width 2 want 6"):
        product(rounding(2), 3).quantize(jnp.zeros((4, 5)), Codes(), KEY, True)
    with pytest.raises(ValueError, match="depth=0 must be at least 1"):
        residual(rounding(), 0)
    with pytest.raises(ValueError, match="scales must be"):
        residual(rounding(), 3, scales=(1.0, 2.0))
    with pytest.raises(ValueError, match="choose one of straight_through"):
        residual(rounding(), 3, estimator="ste")
