"""The masked autoregressive prior on real tokens: its sampler with closed-form heads, its masks, its conditions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxae.losses import diffusion
from jaxae.priors.masked_continuous import _Trunk, hidden_counts, masked_continuous, sample_in_order
from jaxae.priors.tokens import Head, diffusion_head, place_table

LENGTH, D = 6, 2
SMALL = dict(width=8, depth=1, heads=2)


def _random_params(prior, scale=0.3, **kwargs):
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((2, LENGTH, D)), **kwargs)
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, scale, p.shape)), shapes)


def _tiny(learned_variance=True, **options):
    head = diffusion_head(D, 8, 1, times=20, learned_variance=learned_variance)
    prior = masked_continuous((LENGTH, D), 2, head, **SMALL, **options)
    return prior, _random_params(prior, label=jnp.zeros(2, int))


# --------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("length", [1, 4, 49, 256])
def test_hidden_counts_follow_the_cosine_fall_by_one_at_least_and_end_at_none(length):
    for iterations in sorted({1, (length + 1) // 2, length}):
        counts = hidden_counts(length, iterations)
        assert len(counts) == iterations and counts[-1] == 0 and np.diff(np.append(length, counts)).max() <= -1
    np.testing.assert_array_equal(hidden_counts(length, length), np.arange(length)[::-1])
    if length == 256:
        cosine = np.floor(256 * np.cos(np.pi / 2 * np.arange(1, 17) / 16))
        np.testing.assert_array_equal(hidden_counts(256, 16)[:-1], cosine[:-1])


@pytest.mark.parametrize("iterations", [1, 3, LENGTH])
def test_every_token_is_visited_once_and_sees_what_was_revealed_before(iterations):
    n = 5
    turns = jnp.argsort(jax.random.uniform(jax.random.key(0), (n, LENGTH)), axis=-1)
    after = hidden_counts(LENGTH, iterations)

    def fill(key, x, hidden, where, k):
        """Writes the step's number + 1, the tokens hidden then, and a visit on top of what stood there."""
        before = jnp.take_along_axis(x, where[..., None], axis=1)
        seen = jnp.broadcast_to(hidden.sum(1)[:, None], where.shape)
        return jnp.stack([jnp.full(where.shape, k + 1.0), seen, before[..., 2] + 1], axis=-1)

    x = np.asarray(jax.jit(lambda turns: sample_in_order(fill, jax.random.key(1), turns, after, 3))(turns))
    np.testing.assert_array_equal(x[..., 2], 1)
    hidden_before = np.append(LENGTH, after[:-1])
    np.testing.assert_array_equal(x[..., 1], hidden_before[x[..., 0].astype(int) - 1])
    in_turn = np.take_along_axis(x[..., 0], np.asarray(turns), axis=1)
    np.testing.assert_array_equal(in_turn, np.repeat(np.arange(1, iterations + 1), -np.diff(np.append(LENGTH, after)))
                                  [None].repeat(n, 0))


@pytest.mark.parametrize("order", ["random", "raster"])
def test_closed_form_heads_of_a_linear_gaussian_sequence_give_its_covariance(order):
    """Four tokens of an autoregression. Each step's diffusion has the optimal denoiser of the conditional Gaussian
    given the revealed tokens, whatever their set is, so the samples' covariance is the sequence's."""
    n, length, steps = 20_000, 4, 10
    alpha_bar = diffusion.linear_schedule()
    times = np.round(np.linspace(999, 0, steps)).astype(int)
    before = np.ones(1000)  # alpha_bar of the time that follows in the sampler
    before[times[:-1]] = alpha_bar[times[1:]]
    level, before = jnp.float32(alpha_bar), jnp.float32(before)
    lower = np.array([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0.64, 0.48, 0.6, 0], [-0.5, 0.3, 0.2, 0.5]])
    covariance = jnp.float32(lower @ lower.T)

    def conditional(x, hidden, where):
        """Mean and variance of the token at `where` given the revealed tokens: Gaussian elimination by blocks."""
        seen = ~hidden & (jnp.arange(length) != where)
        block = jnp.where(seen[:, None] & seen, covariance, jnp.eye(length))
        weights = jnp.linalg.solve(block, jnp.where(seen, covariance[where], 0.0))
        return weights @ x, covariance[where, where] - weights @ jnp.where(seen, covariance[where], 0.0)

    def fill(key, x, hidden, where, k):
        mean, variance = jax.vmap(conditional)(x[..., 0], hidden, where[:, 0])

        def denoise(x_t, t):
            """The optimal noise, and the share of log-variance that makes each step exact."""
            a, b = level[t], before[t]
            spread = a * variance + 1 - a
            beta = 1 - a / b
            small = jnp.maximum(beta * (1 - b) / (1 - a), 1e-12)
            exact = small + b * (beta / (1 - a)) ** 2 * variance * (1 - a) / spread
            share = jnp.log(exact / small) / jnp.log(beta / small)
            return (jnp.sqrt(1 - a) / spread * (x_t[:, 0] - jnp.sqrt(a) * mean))[:, None], (2 * share - 1)[:, None]

        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (n, 1))
        return diffusion.ddpm_sample(denoise, key, start, alpha_bar, steps)[:, None]

    turns = jnp.broadcast_to(jnp.arange(length), (n, length))
    if order == "random":
        turns = jnp.argsort(jax.random.uniform(jax.random.key(2), (n, length)), axis=-1)
    after = hidden_counts(length, length)
    x = jax.jit(lambda key, turns: sample_in_order(fill, key, turns, after, 1))(jax.random.key(3), turns)
    assert np.abs(np.cov(x[..., 0].T) - covariance).max() < 5 * np.sqrt(2 / n)  # variances are .6 to 1
    assert np.abs(np.mean(x, 0)).max() < 5 / np.sqrt(n)


# ------------------------------------------------------------------------------- masks and conditions


@functools.cache
def _trunk():
    trunk = _Trunk((LENGTH,), 2, buffer=3, **SMALL)
    shapes = jax.eval_shape(trunk.init, jax.random.key(0), jnp.zeros((1, LENGTH, D)), jnp.zeros((1, LENGTH), bool),
                            jnp.zeros(1, int))
    noise = np.random.default_rng(0)
    return trunk, jax.tree.map(lambda p: jnp.float32(noise.normal(0, 0.3, p.shape)), shapes)


def test_conditions_depend_on_the_revealed_tokens_and_the_label_alone():
    trunk, variables = _trunk()
    x = jnp.float32(np.random.default_rng(1).normal(size=(1, LENGTH, D)))
    hidden = jnp.array([[False, True, False, True, True, False]])
    slope = np.abs(np.asarray(jax.jit(jax.jacfwd(lambda x: trunk.apply(variables, x, hidden, jnp.zeros(1, int))))(x)))
    slope = slope.sum((0, 2, 3, 5))  # [token it is of, token moved]
    seen = ~np.asarray(hidden[0])[None] & np.ones((LENGTH, 1), bool)
    assert np.all(slope[~seen] == 0) and np.all(slope[seen] > 1e-4)


def test_an_encoder_that_drops_hidden_tokens_gives_what_one_that_masks_them_gives():
    trunk, variables = _trunk()
    x = jnp.float32(np.random.default_rng(2).normal(size=(3, LENGTH, D)))
    hidden = jnp.array([[False, True, False, True, True, True], [True] * 6, [True, True, True, False, True, False]])
    kept = jnp.array([[2, 0, 5], [4, 1, 0], [1, 5, 3]])  # all that are revealed, and others
    run = jax.jit(lambda kept: trunk.apply(variables, x, hidden, jnp.arange(3) % 2, kept))
    np.testing.assert_allclose(run(kept), trunk.apply(variables, x, hidden, jnp.arange(3) % 2), atol=2e-6)


def _free_head(loss):
    """A head without parameters."""
    return Head(lambda *_: {}, loss, lambda *_: None)


@pytest.mark.parametrize("least, std", [(0.7, 0.25), (0.0, 1.0)])
def test_masked_share_is_the_truncated_normal_and_the_loss_the_mean_over_hidden_tokens(least, std, monkeypatch):
    """The hidden tokens as the transformer is told of them; the head's loss of a token is its own value."""
    length, n, seen = 40, 4000, []
    head = _free_head(lambda params, x, z, key, axis_name: x[..., 0])
    prior = masked_continuous((length, 1), 0, head, least_masked=least, mask_std=std, **SMALL)
    params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, length, 1)))

    def conditions(self, x, hidden, label, kept, deterministic):
        seen.append((hidden, kept))
        return jnp.zeros((*x.shape[:2], 8))

    monkeypatch.setattr(_Trunk, "__call__", conditions)
    x = jnp.float32(np.random.default_rng(3).normal(size=(n, length, 1)))
    nats, (hidden, kept) = jax.jit(lambda x, key: (prior.loss(params, x, None, key), seen[0]))(x, jax.random.key(1))
    hidden, counts = np.asarray(hidden), np.asarray(hidden).sum(1)
    np.testing.assert_allclose(nats, length * np.where(hidden, x[..., 0], 0).sum(1) / counts, rtol=1e-4, atol=1e-4)
    # What the encoder keeps has all the revealed tokens, and no token twice.
    revealed = np.take_along_axis(~hidden, np.asarray(kept), axis=1).sum(1)
    np.testing.assert_array_equal(revealed, length - counts)
    assert kept.shape[1] == (12 if least else 39)
    law = scipy.stats.truncnorm((least - 1) / std, 0, loc=1, scale=std)
    edges = np.arange(max(1, round(least * length)), 41)  # count = ceil(length * share)
    expected = n * np.diff(law.cdf(np.append(edges[0] - 1, edges) / length))
    observed = np.array([np.sum(counts == e) for e in edges])
    assert observed.sum() == n
    keep = expected > 5
    assert ((observed - expected)[keep] ** 2 / expected[keep]).sum() < scipy.stats.chi2.isf(1e-4, keep.sum())
    rate = counts.mean() / length  # and no token is preferred
    assert np.abs(hidden.mean(0) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / n)


def test_head_pays_the_noise_of_its_draws_and_trains_the_transformer():
    """A new epsilon-predicting head returns zero: its loss is the mean of `draws` chi-squares with d degrees."""
    n, w = 500, 5
    x, z = jnp.ones((n, LENGTH, D)), jnp.float32(np.random.default_rng(4).normal(size=(n, LENGTH, w)))
    for draws in (1, 4):
        head = diffusion_head(D, 8, 1, "epsilon", False, draws=draws)
        params = jax.jit(head.init)(jax.random.key(0), x, z)
        nats = np.asarray(jax.jit(head.loss)(params, x, z, jax.random.key(1)))
        assert nats.shape == (n, LENGTH)
        assert abs(nats.mean() - D) < 5 * np.sqrt(2 * D / draws / nats.size)
        np.testing.assert_allclose(nats.var(), 2 * D / draws, rtol=0.2)
    moved = jax.tree.map(lambda p: p + 0.1, params)  # a head whose output layer is not zero
    slope = jax.jit(jax.grad(lambda z: head.loss(moved, x, z, jax.random.key(1)).sum()))(z)
    assert np.mean(np.asarray(slope) != 0) > 0.9


def test_guidance_of_one_is_none_and_of_zero_forgets_the_label_when_all_is_revealed():
    prior, params = _tiny(learned_variance=False)  # which would stay that of the label
    params["trunk"]["label"]["embedding"] *= 10  # a label that matters
    label, key = jnp.array([0, 1, 1]), jax.random.key(4)

    def sample(label, guidance, iterations=3):
        return np.asarray(prior.sample(params, key, 3, label, iterations, steps=5, guidance=guidance))

    plain, one = sample(label, 1.0), sample(label, jnp.float32(1.0))
    np.testing.assert_allclose(plain, one, rtol=1e-5, atol=2e-5)
    assert np.abs(sample(label, 4.0) - plain).max() > 1e-3 < np.abs(sample(1 - label, 1.0) - plain).max()
    # One step reveals all, at the full guidance; in three, the first steps still heed the label.
    np.testing.assert_allclose(sample(label, 0.0, 1), sample(1 - label, 0.0, 1), atol=1e-5)
    assert np.abs(sample(label, 0.0) - sample(1 - label, 0.0)).max() > 1e-3


def test_one_device_and_many_draw_the_same_loss():
    one, params = _tiny()
    many, _ = _tiny(axis_name="batch")
    x = jnp.float32(np.random.default_rng(2).normal(size=(16, LENGTH, D)))
    label, key = jnp.arange(16) % 2, jax.random.key(6)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    spread = jax.jit(jax.shard_map(lambda x, label: many.loss(params, x, label, key), mesh=mesh,
                                   in_specs=(P("batch"), P("batch")), out_specs=P("batch"), check_vma=False))
    np.testing.assert_allclose(spread(x, label), jax.jit(one.loss)(params, x, label, key), rtol=2e-5)


def test_maps_are_rows_of_tokens():
    rows, params = _tiny()
    maps = masked_continuous((2, 3, D), 2, diffusion_head(D, 8, 1, times=20), **SMALL)
    x, key = jnp.float32(np.random.default_rng(7).normal(size=(4, LENGTH, D))), jax.random.key(8)
    label = jnp.arange(4) % 2
    np.testing.assert_allclose(jax.jit(maps.loss)(params, x.reshape(4, 2, 3, D), label, key),
                               jax.jit(rows.loss)(params, x, label, key), rtol=1e-6)
    assert jax.eval_shape(lambda: maps.sample(params, key, 4, label, 2)).shape == (4, 2, 3, D)


def test_what_cannot_be_is_refused():
    for match, options in (("order='spiral'", dict(order="spiral")), ("buffer=0", dict(buffer=0)),
                           ("least_masked=1", dict(least_masked=1.0))):
        with pytest.raises(ValueError, match=match):
            masked_continuous((4, 2), **options)
    for match, options in (("draws=0", dict(draws=0)), ("schedule='flat'", dict(schedule="flat"))):
        with pytest.raises(ValueError, match=match):
            diffusion_head(2, **options)
    with pytest.raises(ValueError, match=r"\(h, w, d\); got \(4,\)"):
        masked_continuous((4,))
    prior, params = _tiny()
    with pytest.raises(ValueError, match=r"expected real latents \[n, 6, 2\]; got float32 \(3, 6, 1\)"):
        prior.loss(params, jnp.zeros((3, 6, 1)), jnp.zeros(3, int), jax.random.key(0))
    with pytest.raises(ValueError, match="num_classes=2 needs integer label"):
        prior.sample(params, jax.random.key(0), 3)
    with pytest.raises(ValueError, match="iterations=7 must lie between 1 and the 6 tokens"):
        prior.sample(params, jax.random.key(0), 3, jnp.zeros(3, int), iterations=7)


def test_places_start_orthogonal_along_each_axis_of_mean_square_one():
    """Places of a map have inner product width / 2 for a common row, and width / 2 for a common column."""
    table = np.asarray(jax.jit(lambda key: place_table(key, (3, 5), 16))(jax.random.key(0)))
    row, column = np.divmod(np.arange(15), 5)
    same = (row[:, None] == row).astype(int) + (column[:, None] == column)
    np.testing.assert_allclose(table @ table.T, 8 * same, atol=1e-4)
    many = np.asarray(place_table(jax.random.key(0), (40,), 6))  # more places than channels
    assert np.mean(many**2) == pytest.approx(1.0, rel=1e-4) and len(np.unique(many.round(3), axis=0)) == 40
