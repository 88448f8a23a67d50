"""Transformer and its prior: causality, decoding with a cache, and enumeration of all code maps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.nn.rotary import rotary_angles, rotate_pairs
from jaxae.nn.transformer import Positions, Transformer
from jaxae.priors.transformer import CausalTransformer, transformer

KINDS = ["softmax", "linear"]
TINY = dict(width=8, layers=1, heads=2, mlp_ratio=2)

# -------------------------------------------------------------------- what tests of other priors on codes use too


def key_of(seed):
    """Of XLA's own generator: programs with many draws compile several times faster."""
    return jax.random.key(seed, impl="rbg")


def normal(*shape):
    return jnp.float32(np.random.default_rng(1).normal(size=shape))


def random_like(shapes, scale=0.5, seed=0):
    """Parameters far from their initial values, so that no dependence vanishes by symmetry and nothing is uniform."""
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, scale, p.shape)), shapes)


def random_params(prior, codes, label=None, scale=0.5, seed=0):
    return random_like(jax.eval_shape(prior.init, jax.random.key(0), codes, label), scale, seed)


def every_map(shape, num_codes):
    """All code maps of a shape, `[num_codes**size *shape]`, in the order of their digits."""
    return jnp.array(list(itertools.product(range(num_codes), repeat=int(np.prod(shape))))).reshape(-1, *shape)


def assert_follows(samples, probabilities, num_codes):
    """Samples `[n ...]` have the probabilities of `every_map`: chi-square at level 1e-4."""
    flat = np.asarray(samples).reshape(len(samples), -1)
    digits = num_codes ** np.arange(flat.shape[1])[::-1]
    counts = np.bincount(flat @ digits, minlength=len(probabilities))
    expected = len(flat) * np.asarray(probabilities, np.float64)
    common = expected > 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], max(expected[~common].sum(), 1e-3))
    assert common.sum() >= 8
    assert ((observed - expected) ** 2 / expected).sum() < scipy.stats.chi2.isf(1e-4, len(observed) - 1)


def split_in_eight(function, params, codes, label, key):
    """`function("data")(params, codes, label, key)` with the batch spread over the axis 'data' of 8 replicas."""
    parts = [x.reshape(8, -1, *x.shape[1:]) for x in (codes, label)]
    mapped = jax.vmap(function("data"), (None, 0, 0, None), axis_name="data")
    return jax.jit(mapped)(params, *parts, key).reshape(-1)


# ---------------------------------------------------------------------------------------------------- the network


@functools.cache
def _net(kind):
    net = Transformer(out=5, shape=(3, 4), attention=kind, **TINY | dict(layers=2))
    x = normal(2, 12, 8)
    return net, random_like(jax.eval_shape(net.init, jax.random.key(0), x), 0.4), x


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_any_length_through_the_cache_are_the_whole(kind):
    net, params, x = _net(kind)

    @jax.jit
    def both(params, x):
        cache, pieces = net.start(2), []
        for start, end in ((0, 5), (5, 12)):
            piece, cache = net.apply(params, x[:, start:end], cache)
            pieces.append(piece)
        return net.apply(params, x), jnp.concatenate(pieces, 1), cache.position

    whole, pieces, position = both(params, x)
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    assert position == 12 and whole.std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_output_sees_exactly_its_past_and_itself(kind):
    net, params, x = _net(kind)
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x[None])[0]))(x[0])  # [t out u d]
    np.testing.assert_array_equal(np.abs(jacobian).sum((1, 3)) > 0, np.tri(12, dtype=bool))


def test_factored_positions_are_sums_over_the_axes():
    layer = Positions((2, 3, 4), 5)
    params = random_like(jax.eval_shape(layer.init, key_of(0)))
    table = jax.jit(layer.apply)(params)
    axes = [params["params"][f"axis{i}"] for i in range(3)]
    want = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    np.testing.assert_allclose(table.reshape(2, 3, 4, 5), want, atol=1e-6)
    whole = jax.eval_shape(Positions((2, 3, 4), 5, factored=False).init, key_of(0))
    assert whole["params"]["table"].shape == (24, 5)


def test_positions_start_as_large_as_tokens():
    prior = transformer((8, 8), 200, width=64, layers=1, heads=2)
    params = prior.init(key_of(0), jnp.zeros((1, 8, 8), int))
    tokens, places = (np.std(leaf) for leaf in (params["embed"]["embedding"], params["body"]["positions"]["axis0"]))
    assert 0.7 < places / tokens < 1.4


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_the_whole_network_give_the_logits_of_teacher_forcing(kind):
    net = CausalTransformer(3, 2, Transformer(3, (2, 2, 2), attention=kind, **TINY))
    codes, label = every_map((8,), 3)[1000::1500][:4], jnp.arange(4) % 3
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), codes, label))

    @jax.jit
    def both(params):
        def step(cache, code):
            logits, cache = net.apply(params, code, label, cache, method="step")
            return cache, logits

        before = jnp.concatenate([codes[:, :1], codes[:, :-1]], 1)  # the first is ignored
        steps = lax.scan(step, net.body.start(4), before.T)[1]
        return net.apply(params, codes, label), steps.swapaxes(0, 1)

    parallel, steps = both(params)
    np.testing.assert_allclose(steps, parallel, atol=1e-4)
    assert parallel.std() > 0.1


# ------------------------------------------------------------------------------------------------------ the prior


@functools.cache
def _prior(kind, shape, num_codes):
    """A prior, its parameters, and log-probabilities of every map in class 1 and in the null class."""
    prior = transformer(shape, num_codes, num_classes=2, attention=kind, **TINY)
    maps = every_map(shape, num_codes)
    label = jnp.ones(len(maps), int)
    params, log_prob = random_params(prior, maps, label), jax.jit(prior.log_prob)
    return prior, params, [np.asarray(log_prob(params, maps, y)) for y in (label, label + 1)]


@pytest.mark.parametrize("kind,shape", [("softmax", (3, 3)), ("linear", (3, 3)), ("softmax", (2, 2, 2))])
def test_probabilities_of_all_maps_sum_to_one(kind, shape):
    of_class, null = _prior(kind, shape, 2)[2]
    np.testing.assert_allclose([np.exp(of_class).sum(), np.exp(null).sum()], 1, atol=1e-4)
    assert of_class.std() > 0.5 and np.abs(null - of_class).max() > 0.1  # neither uniform nor blind to the class


def test_samples_have_the_enumerated_probabilities():
    prior, params, (log_p, _) = _prior("softmax", (2, 2), 3)
    samples = prior.sample(params, key_of(0), 20_000, jnp.ones(20_000, int))
    assert_follows(samples, np.exp(log_p), 3)


def test_guidance_top_k_and_temperature_act_on_each_conditional_in_this_order():
    prior, params, tables = _prior("softmax", (2, 2), 3)
    conditionals, expected = [], np.ones((3,) * 4)
    for t in range(4):
        for log_p in tables:
            marginal = np.exp(log_p).reshape((3,) * 4).sum(tuple(range(t + 1, 4)), keepdims=True)
            conditionals.append(marginal / marginal.sum(t, keepdims=True))
        of_class, null = conditionals[-2:]
        guided = null * (of_class / null) ** 2.0
        guided = np.where(guided == guided.min(t, keepdims=True), 0, guided) ** (1 / 0.6)
        expected = expected * guided / guided.sum(t, keepdims=True)
    n = 20_000
    samples = prior.sample(params, key_of(1), n, jnp.ones(n, int), temperature=0.6, guidance=2.0, top_k=2)
    assert_follows(samples, expected.ravel(), 3)
    assert np.abs(expected.ravel() - np.exp(tables[0])).sum() / 2 > 0.2


@pytest.mark.parametrize("kind,shape", [("softmax", (2, 2, 2)), ("linear", (7,))])
def test_sampling_with_the_cache_is_sampling_without(kind, shape):
    prior = transformer(shape, 11, num_classes=2, attention=kind, **TINY)
    label, key = jnp.arange(50) % 2, key_of(3)
    params = random_params(prior, jnp.zeros((50, *shape), int), label)
    options = dict(temperature=0.8, guidance=1.5, top_k=6)
    cached = prior.sample(params, key, 50, label, **options)
    np.testing.assert_array_equal(cached, prior.sample(params, key, 50, label, cache=False, **options))
    assert len(np.unique(cached)) > 6 and cached.dtype == jnp.int32


@pytest.mark.parametrize("axis, start", [(0, 3), (1, 1)])  # of maps of 2x3: the second row, the second column
def test_each_codebook_has_its_own_embeddings_which_the_cache_knows(axis, start):
    prior = transformer((2, 3), 4, **TINY, codebook_axis=axis)
    codes = jnp.int32(np.random.default_rng(2).integers(0, 4, (5, 2, 3)))
    params = random_params(prior, codes)
    assert params["embed"]["embedding"].shape[0] == 4 * (2, 3)[axis]
    other = jax.tree.map(lambda x: x, params)
    other["embed"]["embedding"] = params["embed"]["embedding"].at[4:8].multiply(-1.0)
    changed = np.abs(prior.logits(params, codes) - prior.logits(other, codes)).max((0, -1)).reshape(-1)
    np.testing.assert_array_equal(changed > 1e-4, np.arange(6) > start)  # only what follows the first of its codes
    for drawn in (params, other):
        np.testing.assert_array_equal(prior.sample(drawn, key_of(1), 9), prior.sample(drawn, key_of(1), 9, cache=False))
    with pytest.raises(ValueError, match="codebook_axis=2 must be an axis"):
        transformer((2, 3), 4, **TINY, codebook_axis=2)


def test_guidance_of_one_is_none_and_one_candidate_is_greedy():
    prior, params, _ = _prior("softmax", (2, 2), 3)
    n = 20_000  # the compiled program of the tests above
    label, key = jnp.arange(n) % 2, key_of(4)
    np.testing.assert_array_equal(prior.sample(params, key, n, label),
                                  prior.sample(params, key, n, label, guidance=jnp.float32(1.0)))
    greedy = prior.sample(params, key, n, label, temperature=0.0)
    np.testing.assert_array_equal(greedy, prior.sample(params, key, n, label, top_k=1))
    assert len(np.unique(greedy.reshape(n, -1), axis=0)) <= 2  # one of each class


def test_label_dropout_hides_its_share_of_labels_in_training_only():
    prior, params, tables = _prior("softmax", (2, 2), 3)
    dropping = transformer((2, 2), 3, num_classes=2, label_dropout=0.3, **TINY)
    n = 1000
    codes, label = jnp.zeros((n, 2, 2), int), jnp.ones(n, int)
    noisy = np.asarray(jax.jit(dropping.log_prob)(params, codes, label, key_of(0)))
    hidden = np.isclose(noisy, tables[1][0], atol=1e-4)
    np.testing.assert_allclose(noisy, np.where(hidden, tables[1][0], tables[0][0]), atol=1e-4)
    assert abs(hidden.mean() - 0.3) < 0.06  # sd .0145
    certain = jax.jit(dropping.log_prob)(params, every_map((2, 2), 3), jnp.ones(81, int))
    np.testing.assert_allclose(certain, tables[0], atol=1e-4)


def test_noise_of_eight_devices_is_that_of_one():
    def log_prob(axis_name):
        return transformer((2, 2), 3, num_classes=2, dropout=0.3, label_dropout=0.5, axis_name=axis_name,
                           **TINY).log_prob

    codes, label, key = every_map((2, 2), 3)[:16], jnp.arange(16) % 2, key_of(1)
    params = _prior("softmax", (2, 2), 3)[1]
    want = jax.jit(log_prob(None))(params, codes, label, key)
    parts = [x.reshape(8, -1, *x.shape[1:]) for x in (codes, label)]
    mapped = jax.pmap(log_prob("data"), "data", in_axes=(None, 0, 0, None))(params, *parts, key)
    np.testing.assert_allclose(mapped.reshape(-1), want, atol=1e-5)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in (codes, label)]
    np.testing.assert_allclose(jax.jit(log_prob(None))(params, *spread, key), want, atol=1e-5)
    assert np.abs(want - jax.jit(log_prob(None))(params, codes, label, key_of(2))).min() > 1e-4


def test_codes_and_labels_out_of_range_are_nan():
    prior, params, _ = _prior("softmax", (2, 2), 3)
    codes = jnp.zeros((81, 2, 2), int).at[1, 1, 1].set(3).at[2, 0, 0].set(-1)
    label = jnp.zeros(81, int).at[jnp.array([3, 4, 5])].set(jnp.array([-1, 3, 2]))  # 2 is the null class
    log_p = jax.jit(prior.log_prob)(params, codes, label)
    np.testing.assert_array_equal(np.isnan(log_p), (np.arange(81) > 0) & (np.arange(81) < 5))


def test_what_cannot_be_modelled_or_sampled_is_refused():
    codes, key = jnp.zeros((2, 3, 3), int), key_of(0)
    for options, message in [(dict(shape=(2,) * 4, num_codes=3), "1 to 3 axes"),
                             (dict(shape=(3, 3), num_codes=0), "one code or more"),
                             (dict(shape=(3, 3), num_codes=2, label_dropout=0.1), "0 without classes")]:
        with pytest.raises(ValueError, match=message):
            transformer(**options)
    prior = transformer((3, 3), 4, num_classes=2, **TINY)
    with pytest.raises(ValueError, match="needs integer label"):
        jax.eval_shape(prior.init, key, codes)
    with pytest.raises(ValueError, match=r"expected integer codes \[n, 3, 3\]"):
        jax.eval_shape(prior.init, key, codes[:, :2], jnp.zeros(2, int))
    with pytest.raises(ValueError, match="top_k=0"):
        prior.sample({}, key, 2, jnp.zeros(2, int), top_k=0)
    with pytest.raises(ValueError, match="needs a class-conditional prior"):
        transformer((3, 3), 4, **TINY).sample({}, key, 2, guidance=2.0)
    with pytest.raises(ValueError, match="one of softmax, linear"):
        jax.eval_shape(transformer((3, 3), 4, attention="cosine", width=8, heads=2).init, key, codes)
    with pytest.raises(ValueError, match="set causal=True"):
        net = Transformer(2, (3,), causal=False, **TINY)
        jax.eval_shape(net.init, key, jnp.zeros((1, 3, 8)), net.start(1))
    with pytest.raises(ValueError, match="4 tokens for 3 positions"):
        jax.eval_shape(Transformer(2, (3,), **TINY).init, key, jnp.zeros((1, 4, 8)))


# ---------------------------------------------------------------- llama

def test_rotated_products_depend_on_differences_of_places_alone():
    angles = rotary_angles((4, 5), 8)
    q, k = jax.random.normal(jax.random.key(0), (2, 8))
    turned = [np.asarray(jax.jit(rotate_pairs)(jnp.broadcast_to(v, (1, 20, 1, 8)), angles))[0, :, 0].reshape(4, 5, 8)
              for v in (q, k)]
    products = np.einsum("ije,kle->ijkl", *turned)
    for di, dj in np.ndindex(3, 4):
        same = [products[i, j, i + di, j + dj] for i in range(4 - di) for j in range(5 - dj)]
        np.testing.assert_allclose(same, same[0], atol=1e-5)
    assert abs(products[0, 0, 1, 0] - products[0, 0, 0, 1]) > 1e-3  # each axis has channels of its own
    np.testing.assert_allclose((turned[0]**2).sum(-1), (q**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(turned[1][0, 0], k, atol=1e-6)


def test_rotation_is_that_of_complex_numbers():
    x = np.asarray(jax.random.normal(jax.random.key(0), (1, 6, 2, 4)))
    found = np.asarray(jax.jit(rotate_pairs)(x, rotary_angles((6,), 4)))
    turned = (x[..., :2] + 1j * x[..., 2:]) * np.exp(1j * np.outer(np.arange(6), [1.0, 0.01]))[:, None]
    np.testing.assert_allclose(found, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)


def test_llama_sums_to_one_over_all_maps_and_caches_what_it_computes():
    prior = transformer((2, 2), 3, width=8, layers=2, heads=2, style="llama")
    codes = jnp.asarray(list(itertools.product(range(3), repeat=4)), jnp.int32).reshape(-1, 2, 2)
    params = prior.init(jax.random.key(0), codes)
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    np.testing.assert_allclose(np.exp(jax.jit(prior.log_prob)(params, codes)).sum(), 1.0, atol=1e-5)
    one, anew = (prior.sample(params, jax.random.key(2), 50, cache=cache) for cache in (True, False))
    np.testing.assert_array_equal(one, anew)
    assert not any("bias" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def test_llama_has_the_parameters_of_llamagen():
    """LlamaGen-B: 16,384 codes of 1,000 classes, 12 layers of width 768: 111 million."""
    prior = transformer((16, 16), 16384, 1000, width=768, layers=12, heads=12, style="llama")
    params = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((1, 16, 16), jnp.int32), jnp.zeros(1, jnp.int32))
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(params)) / 111e6 - 1) < 5e-3


def test_llama_wants_softmax_attention_and_widths_that_its_axes_share():
    codes = jnp.zeros((1, 2, 2), jnp.int32)
    with pytest.raises(ValueError, match="softmax attention"):
        transformer((2, 2), 3, width=8, layers=1, heads=2, attention="linear", style="llama").init(
            jax.random.key(0), codes)
    with pytest.raises(ValueError, match="multiple of 4 channels in each head"):
        transformer((2, 2), 3, width=12, layers=1, heads=2, style="llama").init(jax.random.key(0), codes)
    with pytest.raises(ValueError, match="one of gpt, llama"):
        transformer((2, 2), 3, width=8, layers=1, heads=2, style="bert").init(jax.random.key(0), codes)
