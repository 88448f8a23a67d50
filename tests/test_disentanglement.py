"""Disentanglement scores where the answer is known: identity, rotations, zeros, duplicates, and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from jaxae.metrics import disentanglement as dis
from jaxae.metrics import intervention

FACTOR_VAE = jax.jit(intervention.factor_vae_score,
                     static_argnames=("batch", "num_train", "num_eval", "chunk", "threshold"))
KEY = jax.random.key(0)


@jax.jit
def scores(z, factors):
    """MIG, modularity and SAP of ordered factors: one program for the three."""
    return dis.mig(z, factors), dis.modularity(z, factors), dis.sap_continuous(z, factors)


def grid(*sizes, repeats=1):
    return np.repeat(np.array(list(itertools.product(*map(range, sizes)))), repeats, 0)


def centred(factors):
    return (factors - factors.mean(0)).astype(np.float32)


FACTORS = grid(4, 4, 4, repeats=4)  # 256 rows, every combination equally often
IDENTITY = centred(FACTORS)
ZEROS = np.zeros_like(IDENTITY)
TWICE = np.concatenate([IDENTITY, IDENTITY], 1)
# about (1, 1, 1): every code holds every factor
ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]], np.float32) / 3
ROTATED = IDENTITY @ ROTATION
# the first two factors at 45 degrees, the third by itself
HALF = IDENTITY @ np.array([[1, 1, 0], [1, -1, 0], [0, 0, 1]], np.float32)


def six(z):
    """The codes and zeros, six in all: one shape, so one program."""
    return np.pad(z, ((0, 0), (0, 6 - z.shape[1]))).astype(np.float32)


# ---------------------------------------------------------------- mutual information

def test_mutual_information_of_a_discrete_joint_in_closed_form():
    counts = np.array([[4, 1, 0], [1, 2, 8]])
    a, b = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.ravel(), 1)
    p = counts / counts.sum()
    outer = p.sum(1, keepdims=True) * p.sum(0)
    want = (p[p > 0] * np.log(p[p > 0] / outer[p > 0])).sum()
    shuffle = np.random.default_rng(0).permutation(a.size)
    information = jax.jit(dis.mutual_information)
    for relabel in (lambda v: v, lambda v: 7 - 100_000 * v):  # names and the order of rows do not matter
        got = information(relabel(a)[shuffle], b[shuffle])
        assert got == pytest.approx(want, rel=1e-5)
    p = p.sum(0)
    assert information(b, b) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert information(*grid(3, 7, repeats=5).T) == 0.0  # independent, exactly
    with pytest.raises(ValueError, match="one length"):
        dis.mutual_information(a, b[1:])


def test_scores_equal_those_of_scikit_learns_information_on_numpy_histograms():
    rng = np.random.default_rng(1)
    factors = rng.integers(0, 5, (256, 3)) * np.array([1, -3, 1000]) + 7
    z = (factors @ rng.standard_normal((3, 3)) / [1, 3, 300] + rng.standard_normal((256, 3))).astype(np.float32)
    z[:, 2] *= 1e-4
    cut = [np.digitize(column, np.histogram(column, 20)[1][:-1]) for column in z.T]
    want = np.array([[mutual_info_score(factors[:, k], c) for k in range(3)] for c in cut])
    np.testing.assert_array_equal(jax.jit(dis.discretize)(z) + 1, np.stack(cut, 1))
    top = np.sort(want, 0)[::-1]
    entropy = [mutual_info_score(v, v) for v in factors.T]
    squared = want**2
    others = (squared.sum(1) - squared.max(1)) / (2 * squared.max(1))
    fits = np.sort(np.corrcoef(z.T, factors.T)[:3, 3:] ** 2, 0)[::-1]
    want = np.mean((top[0] - top[1]) / entropy), np.mean(1 - others), np.mean(fits[0] - fits[1])
    np.testing.assert_allclose(scores(z, factors), want, atol=1e-5)
    z[0, 1] = np.nan
    assert np.isnan(scores(z, factors)).all()  # and not a low score


# ---------------------------------------------------------------- scores from tables

def test_identity_has_the_top_score_exactly():
    np.testing.assert_allclose(scores(IDENTITY, FACTORS), [1, 1, 1], atol=1e-6)
    # neither scale, sign, shift, order nor idle codes matter, but modularity counts each idle code as 0
    np.testing.assert_allclose(scores(six(-100 * IDENTITY[:, ::-1] + 5), FACTORS), [1, 1 / 2, 1], atol=1e-6)


def test_rotations_score_lower_in_closed_form():
    # R^2 of a factor on the codes are 4/9, 4/9 and 1/9, and two codes say the same of it
    assert scores(ROTATED, FACTORS)[2] == pytest.approx(0.0, abs=1e-6)
    # between the values, lest the sums of whole numbers be odd or even and give one factor away
    spread = IDENTITY + np.random.default_rng(2).uniform(-0.5, 0.5, IDENTITY.shape).astype(np.float32)
    mig, modularity, _ = scores(spread @ ROTATION, FACTORS)
    assert mig < 0.1 and modularity < 0.7
    np.testing.assert_allclose(scores(HALF, FACTORS), [1 / 3, (1 / 2 + 1 / 2 + 1) / 3, 1 / 3], atol=1e-6)
    lean = IDENTITY @ np.array([[3, 0, 0], [0, 2, 1], [0, 1, 2]], np.float32)  # R^2 of 4/5 and 1/5
    assert scores(lean, FACTORS)[2] == pytest.approx((1 + 3 / 5 + 3 / 5) / 3, abs=1e-6)


def test_zeros_and_duplicates_have_the_score_that_theory_gives():
    np.testing.assert_array_equal(scores(ZEROS, FACTORS), [0, 0, 0])
    # a factor held twice is not compact, but each code still holds one factor
    np.testing.assert_allclose(scores(TWICE, FACTORS), [0, 1, 0], atol=1e-6)


def test_sap_of_binary_factors_is_the_accuracy_above_chance():
    factors = grid(2, 2, 2, repeats=8)
    z = 10 * centred(factors)
    # another code has 50% on a balanced set
    assert dis.sap(z, factors, z, factors) == pytest.approx(0.5)
    assert dis.sap(np.concatenate([z, z], 1), factors, z.repeat(2, 1)[:, [0, 2, 4, 1, 3, 5]], factors) == 0.0
    assert dis.sap(0 * z, factors, 0 * z, factors) == 0.0
    # a code that is right for 3 of 4 test rows, and for its own factor only
    test = z.copy()
    test[::4] *= -1
    assert dis.sap(z, factors, test, factors) == pytest.approx(0.25)
    pair = grid(2, 2, repeats=8)
    mixed = 10 * centred(pair) @ np.array([[1, 1], [1, -1]], np.float32)
    assert dis.sap(mixed, pair, mixed, pair) == pytest.approx(0.0, abs=1e-6)


# ---------------------------------------------------------------- DCI

def test_dci_scores_of_an_importance_matrix_in_closed_form():
    scores = jax.jit(dis.dci_scores)
    np.testing.assert_allclose(scores(np.diag([3.0, 1.0, 0.1])), [1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(scores(np.ones((5, 3))), [0.0, 0.0], atol=1e-6)
    np.testing.assert_array_equal(scores(np.zeros((5, 3))), [0.0, 0.0])
    importance = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    first = 1 + (2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(3)
    # rows: one pure, one even, of equal weight; columns: (2/3, 1/3) with weight 3/4, and a pure one
    np.testing.assert_allclose(scores(importance), [0.5, 0.75 * first + 0.25], atol=1e-6)


@pytest.mark.parametrize("predictor", ["gradient_boosting", "random_forest", "logistic"])
def test_dci_of_identity_mixture_zeros_and_duplicates(predictor):
    def dci(z, factors):
        return dis.dci(z, factors, z[1::2], factors[1::2], predictor, penalty=1e-3)

    factors = grid(2, 2, 2, repeats=8)
    z = centred(factors)
    top = dci(z, factors)
    least = 0.75 if predictor == "random_forest" else 0.99  # which looks at one or two codes a split, whatever they are
    assert top.disentanglement > least and top.completeness > least
    assert top.informativeness == top.train_informativeness == 1.0
    assert top.importance.shape == (3, 3) and (top.importance.argmax(0) == np.arange(3)).all()
    pair = grid(2, 2, repeats=16)
    mixed = dci(centred(pair) @ np.array([[1, 1], [1, -1]], np.float32), pair)
    assert mixed.disentanglement < 0.2 and mixed.completeness < 0.2
    assert mixed.informativeness == 1.0  # nothing is lost
    bottom = dci(0 * z, factors)
    assert bottom[:2] == (0.0, 0.0) and bottom.informativeness == pytest.approx(1 / 2, abs=0.05)
    twice = dci(np.concatenate([z, z], 1), factors)
    assert twice.disentanglement > least  # a code still serves one factor, but a factor is served by two
    if predictor == "logistic":
        assert twice.completeness == pytest.approx(1 - np.log(2) / np.log(6), abs=0.01)
    elif predictor == "random_forest":
        assert twice.completeness < 0.75
    pairs = twice.importance[:3] + twice.importance[3:]
    pairs, single = pairs / pairs.sum(0), top.importance / top.importance.sum(0)
    np.testing.assert_allclose(pairs, single, atol=0.02)  # how a pair shares it is the seed's choice


def test_the_logistic_predictor_is_at_the_optimum_of_its_problem():
    rng = np.random.default_rng(0)
    x = np.pad(rng.standard_normal((200, 5)), ((0, 0), (0, 1)), constant_values=1.0).astype(np.float32)
    y = (x[:, :3] @ rng.standard_normal((3, 4)) + rng.gumbel(size=(200, 4))).argmax(1)
    targets, penalty = np.eye(4, dtype=np.float32)[y], 0.05
    w = np.asarray(dis._sparse_softmax(x, targets, penalty), np.float64)
    p = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
    slope = x.T @ (p - targets) / 200
    np.testing.assert_allclose(slope[-1], 0.0, atol=1e-5)  # the bias is free
    used = w[:-1] != 0
    np.testing.assert_allclose(slope[:-1][used], -penalty * np.sign(w[:-1][used]), atol=1e-5)
    assert (np.abs(slope[:-1][~used]) <= penalty + 1e-5).all() and 0 < used.sum() < used.size


# ---------------------------------------------------------------- scores by intervention

SMALL = dict(batch=16, num_train=2000, num_eval=2000)
UNPRUNED = dict(SMALL, threshold=1e-6, chunk=999)


def test_factor_vae_score_of_identity_mixtures_zeros_and_duplicates():
    assert FACTOR_VAE(KEY, six(IDENTITY), FACTORS, **SMALL) == (1.0, 1.0)
    assert FACTOR_VAE(KEY, TWICE, FACTORS, **SMALL).accuracy == 1.0  # not asked to be compact
    assert FACTOR_VAE(KEY, six(ZEROS), FACTORS, **SMALL) == (0.0, 0.0)
    assert FACTOR_VAE(KEY, six(HALF), FACTORS, **SMALL).accuracy == pytest.approx(2 / 3, abs=0.05)
    broken = np.where(np.arange(256)[:, None] == 3, np.nan, IDENTITY)
    assert np.isnan(FACTOR_VAE(KEY, six(broken), FACTORS, **SMALL).accuracy)


def test_factor_vae_score_prunes_inactive_codes():
    # a code that is zero but in one row varies least in almost every batch
    spike = np.where(np.arange(256) == 100, 0.5, 0.0)[:, None]
    z = six(np.concatenate([spike, IDENTITY], 1))
    assert FACTOR_VAE(KEY, z, FACTORS, **SMALL).accuracy == 1.0
    assert FACTOR_VAE(KEY, z, FACTORS, **UNPRUNED).accuracy < 0.6
    constant = six(np.concatenate([np.full((256, 1), 0.1), IDENTITY], 1))  # 0 / 0 where nothing is pruned
    assert FACTOR_VAE(KEY, constant, FACTORS, **UNPRUNED).accuracy == 1.0


def test_factor_vae_score_equals_brute_force_on_a_lopsided_mixture():
    rng = np.random.default_rng(5)
    factors = rng.integers(0, [2, 4, 3], (256, 3))
    z = centred(factors) @ np.array([[1.0, 0.6, 0.0], [0.0, 0.7, 0.5], [0.3, 0.0, 1.0]])
    z = ((z + 0.4 * rng.standard_normal((256, 3))) * [1, 5, 0.5]).astype(np.float32)

    def votes(number):
        table = np.zeros((3, 3))
        for _ in range(number):
            k = rng.integers(3)
            alike = np.flatnonzero(factors[:, k] == factors[rng.integers(256), k])
            table[(z[rng.choice(alike, 16)].var(0, ddof=1) / z.var(0, ddof=1)).argmin(), k] += 1
        return table

    guess, held = votes(2000).argmax(1), votes(4000)
    want = held[np.arange(3), guess].sum() / 4000
    got = FACTOR_VAE(KEY, six(z), factors, **SMALL)
    assert 0.5 < want < 0.95
    assert got.accuracy == pytest.approx(want, abs=4 * np.sqrt(want * (1 - want) * (1 / 4000 + 1 / 2000)))
    assert FACTOR_VAE(KEY, six(z), factors, **UNPRUNED) == got  # the zeros do not vote, nor does the chunk matter


def test_beta_vae_score_tells_the_fixed_factor_of_identity_only():
    def score(z):
        return intervention.beta_vae_score(KEY, six(z), FACTORS, batch=32, num_train=300, num_eval=200).accuracy

    assert score(IDENTITY) > 0.99 and score(TWICE) > 0.99
    assert score(ZEROS) == pytest.approx(1 / 3, abs=0.14)
    assert score(HALF) == pytest.approx(2 / 3, abs=0.14)  # 4 standard errors


def test_pairs_share_the_value_of_the_fixed_factor_and_of_no_other():
    z, factors = jnp.asarray(six(IDENTITY)), jnp.asarray(FACTORS, jnp.int32)
    x, y = map(np.asarray, intervention._pair_features(jax.random.key(1), z, factors, 32, 500, 256))
    x, fixed = x[:, :3], np.arange(3) == y[:, None]
    assert (x[fixed] == 0).all()
    # E|a - b| of two independent draws from 0..3 is 5/4
    assert x[~fixed].mean() == pytest.approx(1.25, abs=4 * 0.97 / np.sqrt(1000 * 32))
    assert set(y) == {0, 1, 2}


# ---------------------------------------------------------------- bad input, many devices

def test_bad_tables_are_refused_with_what_to_do():
    constant = np.where(np.arange(3) == 2, 7, FACTORS)
    for score in (dis.mig, dis.modularity, dis.sap_continuous):
        with pytest.raises(ValueError, match="same rows"):
            score(IDENTITY[1:], FACTORS)
        with pytest.raises(ValueError, match=r"\[2\] have one value only.*drop"):
            score(IDENTITY, constant)
    assert np.isnan(scores(IDENTITY, constant)[0])  # values are not known under jit
    with pytest.raises(ValueError, match="at least 2 codes"):
        jax.jit(dis.mig)(IDENTITY[:, :1], FACTORS)
    with pytest.raises(ValueError, match="and 2 factors"):
        jax.jit(dis.modularity)(IDENTITY, FACTORS[:, :1])
    with pytest.raises(ValueError, match="differ in their columns"):
        dis.sap(IDENTITY, FACTORS, IDENTITY[:, :2], FACTORS)
    with pytest.raises(ValueError, match="choose one of gradient_boosting"):
        dis.dci(IDENTITY, FACTORS, IDENTITY, FACTORS, "lasso")
    for score in (intervention.factor_vae_score, intervention.beta_vae_score):
        with pytest.raises(ValueError, match="more rows or a smaller batch"):
            score(KEY, IDENTITY, FACTORS, batch=257)
        with pytest.raises(ValueError, match="one value only"):
            score(KEY, IDENTITY, constant)
        with pytest.raises(ValueError, match="same rows"):
            score(KEY, IDENTITY, FACTORS[1:])
        with pytest.raises(ValueError, match="factor 0 has the value 9 in one row only"):
            score(KEY, IDENTITY, np.where(np.arange(256)[:, None] == 8, 9, FACTORS))


def test_eight_devices_give_the_scores_of_one():
    rng = np.random.default_rng(3)
    z = (ROTATED + rng.standard_normal(ROTATED.shape)).astype(np.float32)
    order = rng.permutation(256)
    z, factors = z[order], FACTORS[order].astype(np.int32)

    def run(z, factors, axis_name=None):
        voted = intervention.factor_vae_score(KEY, z, factors, 8, 100, 100, axis_name=axis_name)
        return jnp.stack([dis.mig(z, factors, axis_name=axis_name),
                          dis.sap_continuous(z, factors, axis_name=axis_name), voted.accuracy])

    one = np.asarray(jax.jit(run)(z, factors))
    assert (one > 0).all() and (one < 1).all()
    np.testing.assert_allclose(one[:2], np.array(scores(z, factors))[[0, 2]], atol=1e-5)
    spread = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "data"), jax.sharding.PartitionSpec("data"))
    np.testing.assert_allclose(jax.jit(run)(*jax.device_put((z, factors), spread)), one, atol=1e-5)
    mapped = jax.pmap(lambda *args: run(*args, "data"), "data")(z.reshape(8, 32, 3), factors.reshape(8, 32, 3))
    np.testing.assert_allclose(mapped, np.broadcast_to(one, (8, 3)), atol=1e-5)
