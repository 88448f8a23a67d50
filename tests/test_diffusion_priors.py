"""Diffusion and flow-matching priors: planted classes, the flow's own likelihood, guidance, and the networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxae.nn.denoise import DenoiseMLP, DenoiseTransformer, time_embedding
from jaxae.priors.diffusion import diffusion, hide

CENTRES, STD = jnp.array([[-1.2, 0.0], [1.0, 0.8]]), jnp.array([0.3, 0.6])


def _random_params(prior, shape, scale=0.3):
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1, int))
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, scale, p.shape)), shapes)


def _planted(key, n):
    which, noise = jax.random.split(key)
    label = jax.random.randint(which, (n,), 0, 2)
    return CENTRES[label] + STD[label, None] * jax.random.normal(noise, (n, 2)), label


@pytest.mark.parametrize("options", [dict(kind="ddpm", learned_variance=True), dict(kind="flow_matching")],
                         ids=["ddpm", "flow"])
def test_trained_priors_draw_the_planted_classes(options):
    prior = diffusion((2,), 2, width=32, depth=1, **options)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 300))

    @jax.jit
    def train(key):
        params = prior.init(key, *_planted(key, 2))

        def step(carry, key):
            params, state = carry
            grads = jax.grad(lambda p: prior.loss(p, *_planted(key, 128), jax.random.fold_in(key, 1)).mean())(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 300))[0][0]

    params = train(jax.random.key(0))
    n = 1000
    label = jnp.arange(n) % 2
    x = np.asarray(prior.sample(params, jax.random.key(1), n, label, steps=40))
    for c in (0, 1):
        mine = x[np.asarray(label) == c]
        np.testing.assert_allclose(mine.mean(0), CENTRES[c], atol=0.2)
        np.testing.assert_allclose(mine.std(0), STD[c], rtol=0.25)
    if prior.log_prob is not None:
        points = _planted(jax.random.key(2), 200)
        exact = scipy.stats.norm.logpdf(points[0], CENTRES[points[1]], STD[points[1], None]).sum(1)
        found = np.asarray(jax.jit(prior.log_prob)(params, *points))
        assert -0.02 < (exact - found).mean() < 0.15  # the Kullback-Leibler divergence, up to Monte Carlo


@functools.cache
def _flow():
    prior = diffusion((1,), 2, kind="flow_matching", width=8, depth=1)
    return prior, _random_params(prior, (1,), 0.4)


def test_flow_likelihood_is_normalized_and_that_of_the_samples():
    prior, params = _flow()
    grid = np.linspace(-12, 12, 1201, dtype=np.float32)
    log_prob = jax.jit(prior.log_prob)
    density = [np.exp(log_prob(params, grid[:, None], jnp.full(1201, c))) for c in (0, 1)]
    for p in density:
        assert np.trapezoid(p, grid) == pytest.approx(1.0, abs=2e-3)
    assert np.abs(density[0] - density[1]).max() > 0.01  # the class counts
    assert np.abs(density[0] - scipy.stats.norm.pdf(grid)).max() > 0.05  # and so does the network
    x = np.asarray(prior.sample(params, jax.random.key(2), 3000, jnp.zeros(3000, int)))[:, 0]
    cdf = np.append(0, np.cumsum((density[0][1:] + density[0][:-1]) / 2 * np.diff(grid)))
    assert scipy.stats.kstest(x, lambda v: np.interp(v, grid, cdf)).pvalue > 1e-3


def test_likelihood_is_offered_where_it_is_exact_alone():
    assert diffusion((64,), kind="flow_matching").log_prob is not None
    assert diffusion((65,), kind="flow_matching").log_prob is None
    assert diffusion((4, 4, 1), kind="flow_matching").log_prob is None
    assert diffusion((2,)).log_prob is None


def test_guidance_of_one_is_none_and_of_zero_forgets_the_label():
    prior, params = _flow()
    label, key = jnp.array([0, 1, 0, 1]), jax.random.key(3)

    def sample(guidance, label=label):
        return np.asarray(prior.sample(params, key, 4, label, 10, guidance))

    np.testing.assert_allclose(sample(1.0), sample(jnp.float32(1.0)), atol=1e-4)
    np.testing.assert_allclose(sample(0.0), sample(0.0, 1 - label), atol=1e-5)
    np.testing.assert_allclose(sample(0.0), sample(1.0, jnp.full(4, 2)), atol=1e-4)  # row 2 is that of no label
    assert np.abs(sample(1.0) - sample(1.0, 1 - label)).max() > 0.01 < np.abs(sample(3.0) - sample(1.0)).max()


def test_labels_are_hidden_at_the_rate_asked_for():
    rows = jnp.arange(20_000) % 3
    out = np.asarray(hide(jax.random.key(4), rows, 3, 0.1))
    assert np.mean(out == 3) == pytest.approx(0.1, abs=0.01)
    assert np.all((out == rows) | (out == 3))
    np.testing.assert_array_equal(hide(jax.random.key(4), rows, 3, 0.0), rows)


def test_maps_train_and_sample_in_every_way_of_the_sampler():
    prior = diffusion((4, 4, 2), width=8, depth=1, heads=2, patch=2, learned_variance=True, times=20)
    params = _random_params(prior, (4, 4, 2))
    x = jax.random.normal(jax.random.key(5), (6, 4, 4, 2))
    one = jax.jit(prior.loss)(params, x, None, jax.random.key(6))
    other = jax.jit(prior.loss)(params, x, None, jax.random.key(7))
    assert one.shape == (6,) and np.all(np.isfinite(one)) and np.abs(one - other).min() > 0
    free = prior.sample(params, jax.random.key(8), 3, steps=5)
    cold = prior.sample(params, jax.random.key(8), 3, steps=5, temperature=0.0)
    fixed = prior.sample(params, jax.random.key(8), 3, steps=5, deterministic=True)
    assert free.shape == (3, 4, 4, 2) and all(np.all(np.isfinite(s)) for s in (free, cold, fixed))
    assert np.abs(free - cold).max() > 1e-3 and np.abs(free - fixed).max() > 1e-3


def test_one_device_and_many_draw_the_same_loss():
    one, many = (diffusion((3,), 2, width=8, depth=1, axis_name=name) for name in (None, "batch"))
    params, key = _random_params(one, (3,)), jax.random.key(9)
    x, label = jax.random.normal(jax.random.key(10), (16, 3)), jnp.arange(16) % 2
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    spread = jax.jit(jax.shard_map(lambda x, label: many.loss(params, x, label, key), mesh=mesh,
                                   in_specs=(P("batch"), P("batch")), out_specs=P("batch"), check_vma=False))
    np.testing.assert_allclose(spread(x, label), jax.jit(one.loss)(params, x, label, key), rtol=2e-5)


# ------------------------------------------------------------------------------------------ networks


def test_time_embedding_is_its_closed_form():
    t = jnp.array([0, 3, 999])
    frequency = 10_000.0 ** (-np.arange(4) / 4)
    angle = np.asarray(t)[:, None] * frequency
    np.testing.assert_allclose(time_embedding(t, 8), np.concatenate([np.cos(angle), np.sin(angle)], 1), atol=1e-4)


def test_a_new_denoiser_returns_zero_and_a_trained_one_heeds_time_and_condition():
    """Rows of one batch: as it is, at another time, of another condition, of other data."""
    maps = jax.random.normal(jax.random.key(11), (2, 4, 4, 3))[jnp.array([0, 0, 0, 1])]
    t, c = jnp.array([3, 700, 3, 3]), jnp.array([[1.0], [1.0], [2.0], [1.0]]) * jnp.ones(5)
    for net, x in ((DenoiseTransformer(3, width=8, depth=1, heads=2, patch=2), maps),
                   (DenoiseMLP(3, width=8, depth=1), maps[:, 0, 0])):
        apply = jax.jit(net.apply)
        params = jax.jit(net.init)(jax.random.key(12), x, t, c)
        np.testing.assert_array_equal(apply(params, x, t, c), 0)
        noise = np.random.default_rng(1)
        params = jax.tree.map(lambda p, noise=noise: jnp.float32(noise.normal(0, 0.5, p.shape)), params)
        out = apply(params, x, t, c)
        assert np.abs(out[1:] - out[0]).min() > 1e-4


def test_patches_go_back_to_their_places():
    """Without blocks a pixel of the output depends on its own patch alone; with one, on the whole map."""
    x, t = jax.random.normal(jax.random.key(13), (1, 4, 6, 1)), jnp.array([5])
    rows, columns = np.arange(4) // 2, np.arange(6) // 2
    own = (rows[:, None, None, None] == rows[:, None]) & (columns[None, :, None, None] == columns)
    for depth in (0, 1):
        net = DenoiseTransformer(1, width=8, depth=depth, heads=2, patch=2)
        noise = np.random.default_rng(2)
        params = jax.tree.map(lambda p, noise=noise: jnp.float32(noise.normal(0, 0.5, p.shape)),
                              jax.eval_shape(net.init, jax.random.key(0), x, t))
        slope = jax.jit(jax.jacfwd(lambda x, net=net, params=params: net.apply(params, x, t)))(x)
        assert np.all((np.asarray(slope)[0, :, :, 0, 0, :, :, 0] != 0) == (own if depth == 0 else True))


def test_what_cannot_be_is_refused():
    for match, options in (("kind='gan'", dict(kind="gan")), ("no variance to learn", dict(
            kind="flow_matching", learned_variance=True)), ("predicts='y'", dict(predicts="y")),
            ("times=1 at least 2", dict(times=1))):
        with pytest.raises(ValueError, match=match):
            diffusion((2,), **options)
    with pytest.raises(ValueError, match=r"\(d,\) or \(h, w, c\); got \(2, 3\)"):
        diffusion((2, 3))
    prior, params = _flow()
    with pytest.raises(ValueError, match=r"expected real latents \[n, 1\]; got float32 \(3, 2\)"):
        prior.loss(params, jnp.zeros((3, 2)), jnp.zeros(3, int), jax.random.key(0))
    with pytest.raises(ValueError, match="num_classes=2 needs integer label"):
        prior.sample(params, jax.random.key(0), 3)
    with pytest.raises(ValueError, match="do not tile maps of 4 x 6"):
        DenoiseTransformer(1, patch=4).init(jax.random.key(0), jnp.zeros((1, 4, 6, 1)), jnp.zeros(1))
    with pytest.raises(ValueError, match="even width, got 3"):
        time_embedding(jnp.zeros(1), 3)
