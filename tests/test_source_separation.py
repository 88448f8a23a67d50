"""Separation in token space: counts, beams and draws against enumeration, caches, refinement, the metric."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import every_map, key_of, random_params

from jaxae import metrics
from jaxae.inference.addend_tokens import count_addend_pairs, count_addend_tokens, token_log_likelihood
from jaxae.inference.source_separation import refine_sources, select_closest, separate_beam, separate_sample
from jaxae.priors import Prior, transformer
from jaxae.priors.classes import any_class
from jaxae.systems.base import Latent, System
from jaxae.systems.latent import separation

K, L = 4, 4
ALL = np.asarray(every_map((L,), K))  # [256 4]


def markov(seed):
    """Log probabilities of a code given the two before it `[K+1 K+1 K]`; K stands before the beginning."""
    logits = 1.5 * np.random.default_rng(seed).normal(size=(K + 1, K + 1, K))
    return np.float32(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def source_of(table):
    """What it reads is kept in the cache, so that rows that do not follow their beams give other numbers."""
    def source(n):
        def step(code, cache):
            position, older, newer = cache
            older, newer = newer, jnp.where(position == 0, K, code)
            return jnp.asarray(table)[older, newer], (position + 1, older, newer)

        return (jnp.int32(0), jnp.full(n, K), jnp.full(n, K)), step

    return source


def log_prob(table, codes):
    padded = np.concatenate([np.full((len(codes), 2), K), codes], 1)
    return sum(table[padded[:, t], padded[:, t + 1], padded[:, t + 2]] for t in range(L))


@functools.cache
def case(possible=0.35):
    """Two priors, a count table in which a share of the triples is possible, mixtures of drawn pairs."""
    rng = np.random.default_rng(0)
    tables = markov(1), markov(2)
    counts = rng.integers(1, 20, (K, K, K)) * (rng.random((K, K, K)) < possible)
    counts[..., 0] += counts.sum(-1) == 0  # every pair gives something
    a, b = rng.integers(0, K, (2, 6, L))
    chances = counts / counts.sum(-1, keepdims=True)
    mixtures = np.array([[rng.choice(K, p=chances[i, j]) for i, j in zip(*pair, strict=True)]
                         for pair in zip(a, b, strict=True)], np.int32)
    return tables, counts.astype(np.int32), mixtures


def joint(tables, counts, mixture, eps=0.0):
    """log p1(a) + log p2(b) + log p(m | a, b) of all pairs of sequences `[256 256]`."""
    with np.errstate(divide="ignore"):
        like = np.log((counts + eps) / (counts + eps).sum(-1, keepdims=True))
    each = sum(like[ALL[:, None, s], ALL[None, :, s], mixture[s]] for s in range(L))
    return log_prob(tables[0], ALL)[:, None] + log_prob(tables[1], ALL)[None] + each


def as_pairs(counts):
    triples = [t for t in itertools.product(range(K), repeat=3) for _ in range(counts[t])]
    return count_addend_pairs(*np.array(triples).T, K)


def sources():
    return tuple(source_of(table) for table in case()[0])


# ------------------------------------------------------------------------------------------- counts and likelihood


def test_counts_of_a_modular_codec_stand_where_it_says_and_are_symmetric():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 7, (2, 50, 3, 4))
    first, second = np.concatenate([a, b]), np.concatenate([b, a])
    add = jax.jit(lambda counts: count_addend_tokens(first, second, (first + second) % 7, 7, counts))
    counts = np.asarray(add(add(None)))
    i, j, m = np.indices((7, 7, 7))
    assert (counts[(i + j) % 7 != m] == 0).all() and (counts[(i + j) % 7 == m] > 0).all()
    np.testing.assert_array_equal(counts, counts.swapaxes(0, 1))
    want = np.zeros((7, 7), int)
    np.add.at(want, (first, second), 2)  # twice the same batch, repeated triples each time
    np.testing.assert_array_equal(counts.sum(-1), want)


def test_lists_hold_what_the_table_holds_over_batches_and_codes_out_of_range_are_dropped():
    codes = np.random.default_rng(0).integers(-1, 6, (3, 400))
    table = np.asarray(jax.jit(lambda c: count_addend_tokens(*c, 5))(codes))
    found = count_addend_pairs(*codes[:, 150:], 5, count_addend_pairs(*codes[:, :150], 5))
    m, i, j = found.coords
    assert (np.diff((m * 5 + i) * 5 + j) > 0).all() and (found.counts > 0).all()
    rebuilt = np.zeros((5, 5, 5), int)
    rebuilt[i, j, m] = found.counts
    np.testing.assert_array_equal(rebuilt, table)
    assert table.sum() == ((codes >= 0) & (codes < 5)).all(0).sum() < 400


def test_counts_of_eight_replicas_are_those_of_one_batch():
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 5, (3, 64)))
    split = codes.reshape(3, 8, 8).swapaxes(0, 1)
    mapped = jax.pmap(lambda c: count_addend_tokens(*c, 5, axis_name="data"), "data")(split)
    np.testing.assert_array_equal(mapped[3], jax.jit(lambda c: count_addend_tokens(*c, 5))(codes))


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_likelihood_is_normalised_over_the_mixture_and_smoothed(eps):
    counts = case()[1].copy()
    counts[2, 3] = 0  # a pair that was never seen
    found = np.exp(jax.jit(token_log_likelihood, static_argnums=1)(counts, eps))  # [m i j]
    want = (counts + eps) / np.maximum((counts + eps).sum(-1, keepdims=True), 1e-9)
    np.testing.assert_allclose(found, want.transpose(2, 0, 1), atol=1e-6)
    assert found[:, 2, 3].sum() == pytest.approx(1.0 if eps else 0.0)
    np.testing.assert_allclose(np.exp(token_log_likelihood(counts, 0.5, weight=2.0)),
                               np.square((counts + 0.5) / (counts + 0.5).sum(-1, keepdims=True)).transpose(2, 0, 1),
                               atol=1e-6)


# ------------------------------------------------------------------------------------------------- beams and draws


def test_beam_search_returns_the_likeliest_pairs_of_all():
    tables, counts, mixtures = case()
    run = jax.jit(jax.vmap(lambda m: separate_beam(sources(), token_log_likelihood(counts), m, K ** 6)))
    found = run(mixtures)
    for row, mixture in enumerate(mixtures):
        scores = joint(tables, counts, mixture)
        best = np.unravel_index(scores.argmax(), scores.shape)
        np.testing.assert_array_equal([found.first[row, 0], found.second[row, 0]], ALL[list(best)])
        ordered = np.sort(scores.ravel())[::-1][:500]  # -inf, too, where there are not so many
        np.testing.assert_allclose(found.score[row, :500], ordered, atol=1e-4)


def test_beams_keep_caches_in_the_order_of_their_sequences():
    tables, counts, mixtures = case()
    found = jax.jit(jax.vmap(lambda m: separate_beam(sources(), token_log_likelihood(counts), m, 20)))(mixtures)
    for row, mixture in enumerate(mixtures):
        alive = np.isfinite(found.score[row])
        digits = K ** np.arange(L)[::-1]
        a, b = found.first[row] @ digits, found.second[row] @ digits
        np.testing.assert_allclose(found.score[row][alive], joint(tables, counts, mixture)[a, b][alive], atol=1e-4)
        assert alive.sum() > 10 and len(set(zip(a[alive].tolist(), b[alive].tolist(), strict=True))) == alive.sum()


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_lists_of_pairs_separate_as_the_table_does(eps):
    _, counts, mixtures = case()
    likelihoods = token_log_likelihood(counts, eps), token_log_likelihood(as_pairs(counts), eps)
    dense, listed = jax.jit(jax.vmap(lambda m: [separate_beam(sources(), like, m, 30) for like in likelihoods]))(
        mixtures)
    np.testing.assert_allclose(listed.score, dense.score, atol=1e-4)
    alive = np.isfinite(dense.score)
    np.testing.assert_array_equal(np.asarray(listed.first)[alive], np.asarray(dense.first)[alive])
    np.testing.assert_array_equal(np.asarray(listed.second)[alive], np.asarray(dense.second)[alive])


def step_by_step(tables, like, mixture, temperature, top_k):
    """Probabilities `[256 256]` of the draws: each step normalised over its pairs."""
    probability, padded = np.ones((256, 256)), np.concatenate([np.full((256, 2), K), ALL], 1)
    for s in range(L):
        a, b = (table[padded[:, s], padded[:, s + 1]].astype(float) / temperature for table in tables)  # [256 K]
        a, b = (p - np.log(np.exp(p).sum(-1, keepdims=True)) for p in (a, b))
        scores = (a[:, None, :, None] + b[None, :, None, :] + like[mixture[s]]).reshape(256, 256, K * K)
        if top_k:
            scores = np.where(scores < np.sort(scores)[..., -top_k, None], -np.inf, scores)
        chosen = np.take_along_axis(scores, (ALL[:, None, s] * K + ALL[None, :, s])[..., None], -1)[..., 0]
        with np.errstate(invalid="ignore"):
            probability = probability * np.nan_to_num(np.exp(chosen) / np.exp(scores).sum(-1))
    return probability


@pytest.mark.parametrize("temperature, top_k, listed", [(1.0, None, True), (0.6, 3, False)])
def test_draws_follow_the_locally_normalised_steps(temperature, top_k, listed):
    tables, counts, mixtures = case()
    like, n = token_log_likelihood(as_pairs(counts) if listed else counts), 50_000
    found = jax.jit(lambda m: separate_sample(sources(), like, m, key_of(0), n, temperature, top_k))(mixtures[1])
    digits = K ** np.arange(L)[::-1]
    a, b = found.first @ digits, found.second @ digits
    want = step_by_step(tables, np.asarray(token_log_likelihood(counts)), mixtures[1], temperature, top_k)
    drawn = np.bincount(a * 256 + b, minlength=65536) / n
    assert want.sum() == pytest.approx(1, abs=1e-4) and (want > 0).sum() > 20
    chance = np.sqrt(want * (1 - want) / (2 * np.pi * n)).sum()  # expected total variation of n exact draws
    assert np.abs(drawn - want.ravel()).sum() / 2 < 1.5 * chance < 0.1
    scores = joint(tables, counts, mixtures[1])
    if temperature == 1.0:
        np.testing.assert_allclose(found.score, scores[a, b], atol=1e-4)
        posterior = np.exp(scores) / np.exp(scores).sum()
        assert np.abs(posterior - want).sum() / 2 > 0.1  # which is another distribution


def test_a_token_without_an_explanation_scores_minus_infinity_unless_it_is_smoothed():
    tables, counts, mixtures = case()
    counts, mixture = counts.copy(), jnp.asarray(mixtures[0]).at[2].set(3)
    counts[..., 3] = 0

    @jax.jit
    def both(like):
        return separate_beam(sources(), like, mixture, 8), separate_sample(sources(), like, mixture, key_of(0), 8)

    assert all((np.asarray(found.score) == -np.inf).all() for found in both(token_log_likelihood(counts)))
    beam, sample = both(token_log_likelihood(counts, 0.1))
    assert np.isfinite(beam.score).all() and np.isfinite(sample.score).all()
    assert beam.score[0] <= joint(tables, counts, mixture, 0.1).max() + 1e-4


# ------------------------------------------------------------------------------------------------ transformer priors


@functools.cache
def _transformers():
    """A class-conditional prior with random parameters on 3x3 maps of 5 codes, and a likelihood."""
    prior = transformer((3, 3), 5, num_classes=4, width=8, layers=1, heads=2, mlp_ratio=2)
    params = random_params(prior, jnp.zeros((2, 3, 3), int), jnp.zeros(2, int), scale=0.6)
    counts = np.random.default_rng(0).integers(0, 9, (5, 5, 5))
    return prior, params, token_log_likelihood(jnp.asarray(counts), 0.1)


def test_cached_scores_of_beams_are_those_of_the_whole_network():
    prior, params, like = _transformers()
    mixture = jnp.asarray(np.random.default_rng(1).integers(0, 5, 9))

    @jax.jit
    def run(params):
        pair = tuple(lambda n, c=c: prior.steps(params, n, jnp.full(n, c)) for c in (1, 3))
        found = separate_beam(pair, like, mixture, 12)
        every, labels = jnp.concatenate([found.first, found.second]), jnp.repeat(jnp.array([1, 3]), 12)
        of_priors = prior.log_prob(params, every.reshape(-1, 3, 3), labels).reshape(2, 12).sum(0)
        return found, of_priors + like[mixture, found.first, found.second].sum(-1)

    found, whole = run(params)
    np.testing.assert_allclose(found.score, whole, atol=2e-4)
    assert (np.diff(found.score) <= 0).all() and whole.std() > 0.01
    assert len(np.unique(found.first[:, :5], axis=0)) > 1  # beams that parted early, whose caches differ


def test_steps_of_several_classes_add_up_to_the_mean_over_classes():
    prior, params, _ = _transformers()
    codes, classes = jnp.asarray(np.random.default_rng(2).integers(0, 5, (6, 9))), (0, 2, 3)

    @jax.jit
    def both(params):
        empty, step = any_class(prior.steps, params, 6, classes)

        def add(carry, t):
            cache, order, total = carry
            log_p, cache = step(codes[order, t - 1], cache)  # the first is ignored
            total = total + log_p[jnp.arange(6), codes[order, t]]
            # Rows may be taken in another order.
            return (jax.tree.map(lambda x: x[::-1] if x.ndim else x, cache), order[::-1], total[::-1]), None

        (_, order, total), _ = jax.lax.scan(add, (empty, jnp.arange(6), jnp.zeros(6)), jnp.arange(9))
        each = [prior.log_prob(params, codes.reshape(6, 3, 3), jnp.full(6, c)) for c in classes]
        return total[jnp.argsort(order)], jax.nn.logsumexp(jnp.stack(each), 0) - jnp.log(3.0), jnp.stack(each)

    steps, whole, each = both(params)
    np.testing.assert_allclose(steps, whole, atol=1e-4)
    assert np.abs(whole - each.mean(0)).max() > 0.01  # not the mean of the logarithms


@pytest.mark.parametrize("codes, listed, beams", [(256, False, 20), (2048, True, 8)])
def test_shapes_at_the_papers_scale(codes, listed, beams):
    """Digits: 7x7 of 256 codes, a table of 256^3; music: lists of pairs of 2,048 codes."""
    prior = transformer((7, 7) if codes == 256 else (512,), codes, num_classes=10, width=128, layers=3, heads=2,
                        factored=False)
    length = 49 if codes == 256 else 512
    params = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((1, 7, 7) if codes == 256 else (1, 512), int),
                            jnp.zeros(1, int))
    if listed:
        rng = np.random.default_rng(0)
        like = token_log_likelihood(count_addend_pairs(*rng.integers(0, codes, (3, 20_000)), codes))
        assert like.pairs.shape == (2, 20_000) and like.window.size < 40
    else:
        counts = jax.eval_shape(lambda c: count_addend_tokens(c, c, c, codes), jnp.zeros((64, 49), int))
        like = jax.eval_shape(token_log_likelihood, counts)
        assert like.shape == (codes,) * 3

    def run(params, like, mixture, key):
        pair = tuple(lambda n, c=c: prior.steps(params, n, jnp.full(n, c)) for c in (0, 1))
        return separate_beam(pair, like, mixture, beams), separate_sample(pair, like, mixture, key, 64, top_k=64)

    beam, sample = jax.eval_shape(run, params, like, jnp.zeros(length, jnp.int32), jax.random.key(0))
    assert beam.first.shape == (beams, length) and sample.second.shape == (64, length)


def _exact_codec():
    """Pixels in halves are their own codes; one class has pixels 0 and 1, the other 0 and 2: every mean is unique."""
    system = System(None, None, None, encode=lambda _, x: jnp.round(2 * x[..., 0]).astype(jnp.int32),
                    decode=lambda _, z: z[..., None] / 2 if z.ndim == 3 else z / 2,
                    codebook=lambda _: jnp.arange(5.0)[:, None], latent=Latent((2, 3), 5))
    table = jnp.log(jnp.array([[0.5, 0, 0.5, 0, 0], [0.5, 0, 0, 0, 0.5]]))

    def steps(params, n, label=None):
        return jnp.zeros(n), lambda code, cache: (params[label], cache)

    rng = np.random.default_rng(0)
    return system, Prior(None, None, None, steps=steps), table, [
        np.float32(value * rng.integers(0, 2, (60, 2, 3, 1))) for value in (1, 2)]


@pytest.mark.parametrize("options", [dict(beams=4), dict(samples=3, top_k=2)])
def test_images_of_an_exact_codec_are_separated_without_error(options):
    system, prior, table, (ones, twos) = _exact_codec()

    @jax.jit
    def run(table, x, mixtures):
        model = separation.separator(system, None, prior, table, ((0,), (1,)))
        counts = separation.count_mixtures(model.encode, x, 5, key_of(0), epochs=5, batch_size=25)
        found = separation.separate(model, token_log_likelihood(counts), mixtures, key_of(1), **options, chunk=7)
        return counts, found, separation.refine(model, found, mixtures, steps=3)

    counts, found, refined = run(table, np.concatenate([ones, twos]), (ones + twos) / 2)
    assert counts.sum() == 5 * 100 * 6 * 2 and counts[2, 4, 3] == counts[4, 2, 3] > 0  # 120 images: 4 batches of 25
    np.testing.assert_array_equal(found.sources, np.stack([ones, twos], 1))
    np.testing.assert_allclose(refined, found.sources, atol=1e-5)  # nothing is left to refine
    np.testing.assert_allclose(found.score, 12 * np.log(0.5), rtol=1e-5)


# --------------------------------------------------------------------------------------- selection and refinement


def test_the_draw_that_adds_up_to_the_mixture_is_selected():
    first, second = (jnp.asarray(np.random.default_rng(s).normal(size=(9, 5)), jnp.float32) for s in (0, 1))
    mixture = (first[6] + second[6]) / 2 + 0.01
    chosen = jax.jit(lambda m: select_closest(lambda z: z.reshape(-1, 5), first, second, m))(mixture)
    assert chosen == 6 and chosen.dtype == jnp.int32


@pytest.mark.parametrize("weight", [1e-3, 0.5])
def test_refinement_with_a_linear_decoder_reaches_the_closed_form(weight):
    """D(z) = z: both move by r / (1 + 2 weight) where r is what the mixture lacks; examples are independent."""
    rng = np.random.default_rng(0)
    a, b, m = (jnp.asarray(rng.normal(size=(3, 2, 4)), jnp.float32) for _ in range(3))
    run = jax.jit(lambda a, b, m: refine_sources(lambda z: z, a, b, m, 900, 0.05, 100, weight))
    found, lack = run(a, b, m), m - (a + b) / 2
    np.testing.assert_allclose(found.first, a + lack / (1 + 2 * weight), atol=2e-3)
    np.testing.assert_allclose(found.second - b, found.first - a, atol=1e-4)
    np.testing.assert_allclose(found.error[0], jnp.square(lack).mean((1, 2)), rtol=1e-5)
    alone = jax.jit(run)(a[1:2], b[1:2], m[1:2])
    np.testing.assert_allclose(alone.first[0], found.first[1], atol=1e-5)


def test_permutation_psnr_takes_the_best_order_of_each_example():
    rng = np.random.default_rng(0)
    sources = rng.random((5, 3, 4, 4, 1)).astype(np.float32)
    orders = [rng.permutation(3) for _ in range(5)]
    noisy = sources + rng.normal(0, 0.1, sources.shape).astype(np.float32)
    shuffled = np.stack([row[order] for row, order in zip(noisy, orders, strict=True)])
    found = jax.jit(metrics.image.permutation_psnr)(sources, shuffled)
    error = np.square(sources - noisy).mean((2, 3, 4))
    np.testing.assert_allclose(found, (-10 * np.log10(error)).mean(1), rtol=1e-4)
    every = [(-10 * np.log10(np.square(sources - shuffled[:, list(p)]).mean((2, 3, 4)))).mean(1)
             for p in itertools.permutations(range(3))]
    np.testing.assert_allclose(found, np.max(every, 0), rtol=1e-4)


def test_what_cannot_be_separated_or_counted_is_refused():
    like, mixture = token_log_likelihood(case()[1]), jnp.zeros(L, jnp.int32)
    codes, (system, prior, *_) = np.zeros((2, 3), int), _exact_codec()
    for call, message in [
            (lambda: separation.separator(system, None, prior._replace(steps=None), ()), "prior.py:transformer"),
            *[(lambda latent=latent: separation.separator(system._replace(latent=latent), None, prior, ()),
               "one code of") for latent in (Latent((2, 3)), Latent((2, 3, 2), 5))],
            (lambda: separate_beam(sources(), like, mixture, 0), "beams=0"),
            (lambda: separate_sample(sources(), like, mixture, key_of(0), 0), "n=0"),
            (lambda: separate_sample(sources(), like, mixture, key_of(0), 2, top_k=0), "top_k=0"),
            (lambda: token_log_likelihood(case()[1], -0.1), "eps=-0.1"),
            (lambda: count_addend_tokens(codes, codes, codes[:, :2], 3), "same positions"),
            (lambda: count_addend_pairs(codes, codes, codes, 3, count_addend_pairs(codes, codes, codes, 2)),
             "counts of 2 codes"),
            (lambda: token_log_likelihood(count_addend_pairs(codes, codes, codes - 1, 3)), "nothing was counted"),
            (lambda: metrics.image.permutation_psnr(jnp.zeros((1, 8, 2)), jnp.zeros((1, 8, 2))), "7 at most")]:
        with pytest.raises(ValueError, match=message):
            call()
