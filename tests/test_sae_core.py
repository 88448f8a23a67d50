"""Codes, sparsifiers and losses of sparse autoencoders: sparse = dense, selections by sorting, estimators by truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.stats import norm

from jaxae.sae import atoms as care
from jaxae.sae import encoders, losses, sparsifiers
from jaxae.sae.codes import Codes, decode, dense

N, D, M, K = 40, 12, 96, 5


@pytest.fixture(scope="module")
def parts():
    keys = jax.random.split(jax.random.key(0), 5)
    return dict(x=jax.random.normal(keys[0], (N, D)), encoder=jax.random.normal(keys[1], (D, M)),
                bias=0.1 * jax.random.normal(keys[2], (M,)), atoms=jax.random.normal(keys[3], (M, D)),
                y=jax.random.normal(keys[4], (N, D)))


def test_gathered_products_have_the_values_and_gradients_of_dense_ones(parts):
    dead = jnp.arange(M) % 3 == 0

    def objective(parts, sparse):
        found = encoders.linear(parts["x"], parts["encoder"], parts["bias"], sparse)
        codes = sparsifiers.topk(found, K)
        y_hat = decode(codes, parts["atoms"], sparse)
        return (jnp.square(parts["y"] - y_hat).sum()
                + losses.auxk(found, parts["atoms"], parts["y"] - y_hat, dead, 7).sum())

    run = jax.jit(jax.value_and_grad(objective), static_argnums=1)
    (light, slopes), (full, want) = run(parts, True), run(parts, False)
    np.testing.assert_allclose(light, full, rtol=1e-5)
    for name in parts:
        np.testing.assert_allclose(slopes[name], want[name], rtol=1e-4, atol=1e-4 * float(jnp.abs(want[name]).max()))
        assert float(jnp.abs(want[name]).max()) > 0


def test_topk_keeps_the_largest_by_sign_and_never_more_than_k_at_ties():
    pre = jnp.array([[3.0, -5.0, 1.0, 1.0, 1.0], [-1.0, -2.0, -3.0, 0.5, -4.0]])
    codes = jax.jit(lambda p: sparsifiers.topk(encoders.of_pre(p), 2))(pre)
    np.testing.assert_array_equal(dense(codes, 5), [[3, 0, 1, 0, 0], [0, 0, 0, 0.5, 0]])
    signed = jax.jit(lambda p: sparsifiers.absolute_topk(encoders.of_pre(p), 2))(pre)
    np.testing.assert_array_equal(dense(signed, 5), [[3, -5, 0, 0, 0], [0, 0, -3, 0, -4]])


def test_auxk_moves_dead_atoms_alone_and_the_error_not_at_all(parts):
    dead = jnp.arange(M) < 20

    def objective(parts):
        found = encoders.linear(parts["x"], parts["encoder"], parts["bias"])
        return losses.auxk(found, parts["atoms"], parts["y"], dead, 32).sum()

    slopes = jax.jit(jax.grad(objective))(parts)
    assert not jnp.any(slopes["encoder"][:, 20:]) and not jnp.any(slopes["atoms"][20:]) and not jnp.any(slopes["y"])
    assert jnp.any(slopes["encoder"][:, :20]) and jnp.any(slopes["atoms"][:20])
    alive = jax.jit(lambda p: losses.auxk(encoders.of_pre(p), parts["atoms"], parts["y"], jnp.zeros(M, bool), 4))
    np.testing.assert_array_equal(alive(jnp.ones((N, M))), 0.0)


def test_kth_largest_is_that_of_sorting_and_batch_topk_spends_the_budget():
    pre = jax.random.normal(jax.random.key(1), (33, 21))
    positive = np.sort(np.maximum(np.asarray(pre), 0).ravel())[::-1]
    kth = jax.jit(sparsifiers.kth_largest)
    for count in (1, 2, 50, 200):
        assert float(kth(jax.nn.relu(pre), count)) == positive[count - 1]
    assert float(kth(jax.nn.relu(pre), 600)) == 0.0  # fewer are positive
    codes, smallest = jax.jit(sparsifiers.batch_topk, static_argnums=1)(pre, 3)
    assert int((codes.values > 0).sum()) == 99 and float(smallest) == positive[98]
    np.testing.assert_array_equal(np.sort(np.asarray(codes.values)[np.asarray(codes.values) > 0])[::-1], positive[:99])


def test_feature_choice_gives_every_atom_its_quota_of_the_largest():
    pre = jax.random.normal(jax.random.key(2), (50, 6)) + 1.0
    quotas = jnp.array([1, 5, 10, 50, 3, 2])
    codes, smallest = jax.jit(sparsifiers.feature_choice, static_argnums=2)(pre, quotas, 50)
    for j, quota in enumerate(np.asarray(quotas)):
        column = np.asarray(jax.nn.relu(pre[:, j]))
        want = np.where(column >= np.sort(column)[::-1][quota - 1], column, 0.0)
        np.testing.assert_array_equal(codes.values[:, j], want)
    assert float(smallest[1]) == np.sort(np.asarray(pre[:, 1]))[::-1][4]
    everything, _ = jax.jit(sparsifiers.feature_choice, static_argnums=2)(pre, jnp.full(6, 50), 50)
    np.testing.assert_array_equal(everything.values, jax.nn.relu(pre))


@pytest.mark.parametrize("mapped", [False, True])
def test_selections_of_a_batch_and_counters_are_those_of_one_device(mapped):
    pre, quotas = jax.random.normal(jax.random.key(3), (64, 10)), jnp.arange(1, 11)

    def run(pre, axis_name=None):
        chosen, least = sparsifiers.batch_topk(pre, 2, axis_name)
        by_atom, floor = sparsifiers.feature_choice(pre, quotas, 10, axis_name)
        activity = care.note_activity(care.start_activity(10), chosen.values > 1.5, axis_name=axis_name)
        sparse = sparsifiers.topk(encoders.of_pre(pre), 2)
        other = care.note_sparse_activity(care.start_activity(10), sparse, axis_name=axis_name)
        tilted = losses.tilted(jnp.square(pre).sum(-1), 0.3, axis_name)
        return chosen.values, by_atom.values, (least, floor, activity, other, tilted)

    want = jax.jit(run)(pre)
    if mapped:
        rows, sums = [], None
        got = jax.pmap(lambda p: run(p, "batch"), axis_name="batch")(pre.reshape(8, 8, 10))
        rows, sums = [a.reshape(64, 10) for a in got[:2]], jax.tree.map(lambda a: a[3], got[2])
        got = (*rows, sums)
    else:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        got = jax.jit(run)(jax.device_put(pre, NamedSharding(mesh, PartitionSpec("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def test_jump_relu_has_the_gradient_of_the_expected_loss():
    """u ~ N(0, 1), target 0.9 u, loss (0.9 u - z)^2 + l H: d/dtheta E = phi(theta) (0.8 theta^2 - l)."""
    u, theta, weight = jax.random.normal(jax.random.key(4), (4_000_000, 1)), jnp.array([0.7]), 0.1
    want = norm.pdf(0.7) * (0.8 * 0.7**2 - weight)

    @jax.jit
    def slope(theta, bandwidth):
        def expected(theta):
            z = sparsifiers.jump_relu(u, theta, bandwidth)
            return (jnp.square(0.9 * u - z) + weight * sparsifiers.heaviside(u, theta, bandwidth)).mean()
        return jax.grad(expected)(theta)[0]

    error = {width: abs(float(slope(theta, width)) / want - 1) for width in (0.05, 0.5)}
    assert error[0.05] < 0.05 < error[0.5]
    inputs = jax.jit(jax.grad(lambda u: sparsifiers.heaviside(u, jnp.array([0.0]), 1.0).sum()))(u[:10])
    assert not jnp.any(inputs)


def test_tilted_mean_goes_from_the_mean_to_the_largest_and_weighs_by_softmax():
    loss = jnp.array([0.1, 0.5, 2.0, 1.0])
    run = jax.jit(losses.tilted)
    assert abs(float(run(loss, 1e-3)) - float(loss.mean())) < 1e-3 and abs(float(run(loss, 1e4)) - 2.0) < 1e-3
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: losses.tilted(x, 1.7)))(loss), jax.nn.softmax(1.7 * loss),
                               rtol=1e-5)
    assert np.isfinite(float(run(1e4 * loss, 1e4)))


def test_nested_selections_are_those_made_one_by_one_and_one_level_is_topk(parts):
    found = encoders.linear(parts["x"], parts["encoder"], parts["bias"])
    nested = sparsifiers.nested_topk(found, (2, 4, 8))
    for k, codes in zip((2, 4, 8), nested, strict=True):
        np.testing.assert_array_equal(dense(codes, M), dense(sparsifiers.topk(found, k), M))
    one = losses.matryoshka(parts["y"], [decode(nested[0], parts["atoms"])], (3.0,), 2.0)
    np.testing.assert_allclose(one, losses.squared_error(parts["y"], decode(nested[0], parts["atoms"]), 2.0), rtol=1e-6)


def test_scores_choose_and_values_stay_activations():
    pre = jax.random.normal(jax.random.key(5), (N, D)) + 1.0
    gradient = jnp.tile(jnp.eye(D)[3], (N, 1))  # what follows depends on atom 3 alone
    found, plain = encoders.of_pre(pre), dense(sparsifiers.topk(encoders.of_pre(pre), 2), D)

    def choose(gradient, beta):
        score = sparsifiers.influence_score(pre, jnp.eye(D), gradient, beta)
        return dense(sparsifiers.score_topk(found, score, 2), D)

    run = jax.jit(choose)
    np.testing.assert_array_equal(run(gradient, 0.0), plain)
    np.testing.assert_array_equal(run(jnp.zeros_like(gradient), 5.0), plain)
    chosen = run(gradient, 1e9)
    np.testing.assert_array_equal(chosen[:, 3], jnp.maximum(pre[:, 3], 0.0))
    assert jnp.any(plain[:, 3] != chosen[:, 3]) and int((chosen > 0).sum(1).max()) == 2


def test_steps_across_atoms_and_unit_norm():
    rng = np.random.default_rng(0)
    atoms, gradient = jnp.asarray(rng.normal(size=(2, 7, 5)), jnp.float32)
    left = jax.jit(care.across)(gradient, atoms)
    np.testing.assert_allclose((np.asarray(left) * atoms).sum(1), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(care.unit_rows(atoms), axis=1), 1.0, rtol=1e-6)
    points = jnp.concatenate([jnp.zeros((60, 2)), jnp.full((40, 2), 9.0)])
    assert float(jnp.abs(jax.jit(care.geometric_median)(points)).max()) < 0.1  # the mean is 3.6


def test_l1_by_norm_does_not_see_how_code_and_atom_share_a_scale(parts):
    codes = Codes(jnp.abs(parts["x"][:, :K]), jnp.tile(jnp.arange(K), (N, 1)))
    larger = Codes(codes.values / 3.0, codes.indices)
    one, other = losses.l1(codes, parts["atoms"]), losses.l1(larger, 3.0 * parts["atoms"])
    np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_allclose(one, losses.l1(Codes(dense(codes, M)), parts["atoms"]), rtol=1e-5)


@pytest.mark.parametrize("k", [0, M + 1])
def test_a_number_of_atoms_that_cannot_be_active_is_refused(parts, k):
    with pytest.raises(ValueError, match=f"k={k} of {M} atoms"):
        sparsifiers.topk(encoders.linear(parts["x"], parts["encoder"], parts["bias"]), k)


def test_inputs_of_another_width_are_refused(parts):
    with pytest.raises(ValueError, match="width 5 do not fit a dictionary for width 12"):
        encoders.linear(jnp.ones((3, 5)), parts["encoder"], parts["bias"])
