"""The next-scale prior by enumeration of a tiny case, by perturbation, and its samples against its probabilities."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxae.priors.next_scale import _Net, next_scale
from jaxae.quantizers.multi_scale import multi_scale_lookup

SMALL = dict(width=8, depth=1, heads=2, embed=4)


def _random_params(prior, length, scale=0.6):
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((1, length), jnp.int32), jnp.zeros(1, int))
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, scale, p.shape)), shapes)


@functools.cache
def _tiny():
    """Scales 1 and 2, 2 codes: all 2^5 sequences with their log-probabilities in each of 2 classes."""
    prior = next_scale((1, 2), 2, num_classes=2, **SMALL)
    params = _random_params(prior, 5)
    every = jnp.int32(list(itertools.product(range(2), repeat=5)))
    log_prob = jax.jit(prior.log_prob)
    log_p = np.stack([log_prob(params, every, jnp.full(32, label)) for label in (0, 1)])
    return prior, params, every, log_p


def test_probabilities_of_all_sequences_sum_to_one_and_codes_of_a_scale_are_independent_given_those_before():
    _, _, _, log_p = _tiny()
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-5)
    assert log_p.std() > 0.5 and np.abs(log_p[0] - log_p[1]).max() > 0.1
    table = np.exp(log_p).reshape(2, 2, 2, 2, 2, 2)  # [label, first scale, four codes of the second]
    given = table / table.sum((2, 3, 4, 5), keepdims=True)
    marginals = [given.sum(tuple(a for a in range(2, 6) if a != axis), keepdims=True) for axis in range(2, 6)]
    np.testing.assert_allclose(functools.reduce(np.multiply, marginals), given, rtol=1e-4)
    assert np.abs(given[:, 0] - given[:, 1]).max() > 0.02  # and they do depend on the first scale


def _chi_square(samples, probabilities):
    counts = np.bincount(samples @ 2 ** np.arange(5)[::-1], minlength=32)
    expected = len(samples) * probabilities
    common = expected > 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], max(expected[~common].sum(), 1e-3))
    return ((observed - expected) ** 2 / expected).sum() < scipy.stats.chi2.isf(1e-4, len(observed) - 1)


def test_samples_have_the_enumerated_probabilities_with_and_without_the_guided_pass():
    prior, params, _, log_p = _tiny()
    n = 10_000
    label = jnp.ones(n, int)
    plain = prior.sample(params, jax.random.key(1), n, label)
    one = prior.sample(params, jax.random.key(1), n, label, guidance=jnp.float32(1.0))
    assert _chi_square(np.asarray(plain), np.exp(log_p[1])) and not _chi_square(np.asarray(plain), np.exp(log_p[0]))
    assert np.mean(np.asarray(plain) != np.asarray(one)) < 1e-3  # rounding of guided logits at near ties


def test_guidance_rises_over_the_scales_from_none():
    """logits of scale 2 are 3 times the class's minus 2 times the hidden label's, those of scale 1 the class's."""
    prior, params, every, log_p = _tiny()
    net = _Net(((1, 1), (2, 2)), 2, 2, None, 4, 8, 1, 2, "cubic", jnp.float32)
    logits = jax.jit(lambda first, rows: net.apply({"params": params}, first, rows))
    first = jnp.array([[0], [1]])
    yes, no = logits(first, jnp.array([1, 1])), logits(first, jnp.array([2, 2]))
    head = jax.nn.log_softmax(yes[0, 0])
    tail = jax.nn.log_softmax(no[:, 1:] + 3.0 * (yes - no)[:, 1:])  # [first, position, code]
    z = np.asarray(every)
    log_p = head[z[:, 0]] + sum(tail[z[:, 0], i, z[:, 1 + i]] for i in range(4))
    n = 10_000
    samples = prior.sample(params, jax.random.key(2), n, jnp.ones(n, int), guidance=3.0)
    assert _chi_square(np.asarray(samples), np.exp(np.asarray(log_p)))


SCALES, COUNTS, CODES = (1, (2, 1), (3, 2)), (1, 2, 6), 5


@functools.cache
def _larger():
    prior = next_scale(SCALES, CODES, **SMALL)
    net = _Net(((1, 1), (2, 1), (3, 2)), CODES, 0, None, 4, 8, 1, 2, "cubic", jnp.float32)
    params = _random_params(prior, sum(COUNTS))
    logits = jax.jit(lambda codes: net.apply({"params": params}, codes[:, :3], jnp.zeros(len(codes), int)))
    return prior, params, logits


def test_logits_of_a_scale_depend_on_every_scale_before_and_on_no_other():
    _, _, logits = _larger()
    codes = jnp.int32(np.random.default_rng(3).integers(0, CODES, (1, 9)))
    begin = np.cumsum((0, *COUNTS))
    moved = jnp.stack([codes[0].at[i].set((codes[0, i] + 1) % CODES) for i in range(9)])
    change = np.abs(logits(moved) - logits(jnp.tile(codes, (9, 1)))).max(-1)  # [token moved, token of the logits]
    for k in range(3):
        block = change[begin[k]:begin[k + 1]]
        np.testing.assert_array_equal(block[:, :begin[k + 1]], 0)
        assert k == 2 or block[:, begin[k + 1]:].min() > 1e-4


def test_sampling_scale_by_scale_is_teacher_forcing():
    """At temperature 0 each code is the likeliest under the logits of the whole sequence at once, and with top_k = 2
    one of the two likeliest, with their probabilities."""
    prior, params, logits = _larger()
    coldest = prior.sample(params, jax.random.key(4), 400, temperature=0.0, top_k=2)
    np.testing.assert_array_equal(coldest, jnp.argmax(logits(coldest), -1))
    warm = prior.sample(params, jax.random.key(6), 400, top_k=2)
    every = np.asarray(logits(warm))
    rank = np.argsort(np.argsort(-every, -1), -1)
    chosen = np.take_along_axis(rank, np.asarray(warm)[..., None], -1)
    two = np.sort(every, -1)[..., -2:]
    second = 1 / (1 + np.exp(two[..., 1] - two[..., 0]))
    assert chosen.max() == 1
    assert abs(chosen.mean() - second.mean()) < 5 * np.sqrt((second * (1 - second)).sum()) / second.size


def test_the_network_reads_the_quantizers_own_map():
    """With a codebook, sequences whose partial sums agree have equal logits though their codes differ."""
    rng = np.random.default_rng(5)
    codebook = jnp.float32(rng.normal(size=(CODES, 3)))
    codebook = codebook.at[4].set(codebook[1])  # codes 1 and 4 are the same vector
    prior = next_scale((1, 2, 3), CODES, codebook=codebook, **SMALL)
    params = _random_params(prior, 14)
    assert "codes" not in params
    codes = jnp.int32(rng.integers(0, CODES, (50, 14)))
    twin = jnp.where(codes == 4, 1, codes).at[:, 5:].set(codes[:, 5:])
    look = jax.jit(lambda codes: multi_scale_lookup(codes[:, :5], codebook, (1, 2, 3)))
    np.testing.assert_array_equal(look(codes), look(twin))
    net = _Net(((1, 1), (2, 2), (3, 3)), CODES, 0, codebook, 4, 8, 1, 2, "cubic", jnp.float32)
    logits = jax.jit(lambda codes: net.apply({"params": params}, codes[:, :5], jnp.zeros(50, int)))
    np.testing.assert_array_equal(logits(codes), logits(twin))
    assert np.abs(logits(codes[::-1]) - logits(twin)).max() > 1e-2


def test_a_new_network_is_uniform_and_outside_the_codebook_is_nan():
    prior = next_scale((1, 2), CODES, **SMALL)
    codes = jnp.zeros((2, 5), jnp.int32).at[1, 3].set(CODES)
    params = jax.jit(prior.init)(jax.random.key(0), codes)
    log_p = jax.jit(prior.log_prob)(params, codes)
    assert float(log_p[0]) == pytest.approx(-5 * np.log(CODES), rel=1e-6) and np.isnan(log_p[1])


def test_positions_start_as_large_as_what_is_read():
    net = _Net(((1, 1), (6, 6)), 30, 0, None, 16, 32, 1, 2, "cubic", jnp.float32)
    params = net.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32))["params"]
    read = params["codes"] @ params["in"]["kernel"]
    assert 0.7 < np.std(params["position"]) / np.std(read) < 1.4


def test_loss_hides_labels_and_is_the_same_on_one_device_and_many():
    prior, params, every, log_p = _tiny()
    many = next_scale((1, 2), 2, num_classes=2, axis_name="batch", **SMALL)
    label, key = jnp.zeros(32, int), jax.random.key(7)
    loss = jax.jit(prior.loss)(params, every, label, key)
    kept = np.isclose(loss, -log_p[0], atol=1e-5)
    hidden = jax.jit(prior.log_prob)(params, every, jnp.full(32, 2))  # row 2 is that of no label
    np.testing.assert_allclose(np.asarray(loss)[~kept], -np.asarray(hidden)[~kept], atol=1e-5)
    assert 0 < (~kept).sum() < 12
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    spread = jax.jit(jax.shard_map(lambda x, label: many.loss(params, x, label, key), mesh=mesh,
                                   in_specs=(P("batch"), P("batch")), out_specs=P("batch"), check_vma=False))
    np.testing.assert_allclose(spread(every, label), loss, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="is the largest"):
        next_scale((4, 1), 5)
    with pytest.raises(ValueError, match="holds 3 codes, but num_codes=5"):
        next_scale((1, 2), 5, codebook=jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="method='area'"):
        next_scale((1, 2), 5, method="area")
    prior, params, every, _ = _tiny()
    with pytest.raises(ValueError, match=r"expected integer codes \[n, 5\]"):
        prior.log_prob(params, every[:, :4], jnp.zeros(32, int))
    with pytest.raises(ValueError, match="num_classes=2 needs integer label"):
        prior.sample(params, jax.random.key(0), 3)
    with pytest.raises(ValueError, match="top_k=0 must keep one"):
        prior.sample(params, jax.random.key(0), 3, jnp.zeros(3, int), top_k=0)
