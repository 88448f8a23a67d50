"""Fast selections and sparse products: what sorting and dense products give, values, gradients and devices included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.sae import atoms as care
from jaxae.sae import encoders, losses, ranking, sparsifiers
from jaxae.sae.batch_selection import batch_topk_entries
from jaxae.sae.codes import Codes, add_rows, decode, dense, row_sums
from jaxae.systems import sparsity
from jaxae.systems.sparse import dictionary
from jaxae.train.config import base

N, D, M, K = 40, 12, 256, 4


@pytest.fixture(scope="module")
def parts():
    keys = jax.random.split(jax.random.key(0), 6)
    scale = jnp.exp(jax.random.normal(keys[5], (N, 1)))  # so that examples differ in how many atoms they take
    return dict(x=scale * jax.random.normal(keys[0], (N, D)), offset=jax.random.normal(keys[4], (D,)),
                encoder=jax.random.normal(keys[1], (D, M)), bias=0.1 * jax.random.normal(keys[2], (M,)),
                atoms=jax.random.normal(keys[3], (M, D)))


def loss(parts, way, axis_name=None):
    """A loss of BatchTopK or TopK codes with every parameter, by entries or densely; a sum over rows of the mean."""
    x, batch = parts["x"], way.startswith("batch")
    if way.endswith("dense"):
        found = encoders.of_pre((x - parts["offset"]) @ parts["encoder"] + parts["bias"])
        if batch:
            codes, least = sparsifiers.batch_topk(found.pre, K, axis_name)
        else:
            values, indices = jax.lax.top_k(found.pre, K)
            codes, least = Codes(dense(Codes(jax.nn.relu(values), indices), M)), 0.0
    else:
        found = encoders.linear(x, parts["encoder"], parts["bias"], True, parts["offset"], way.endswith("streams"))
        codes, least = batch_topk_entries(found, K, axis_name) if batch else (sparsifiers.topk(found, K), jnp.zeros(()))
    y = decode(codes, parts["atoms"], None if batch else True)
    error = jnp.square(x - y - parts["offset"]).sum(-1) + 0.3 * losses.l1(codes, parts["atoms"])
    fired = care.note_sparse_activity(care.start_activity(M), codes, axis_name=axis_name) \
        if codes.indices is not None else \
        care.note_activity(care.start_activity(M), codes.values > care.FIRES, axis_name=axis_name)
    return error.mean(), (dense(codes, M), row_sums(codes, codes.values != 0), least, fired)


def same(got, want, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance,
                                                         atol=tolerance * float(jnp.abs(b).max()) + 1e-30), got, want)


@pytest.mark.parametrize("way", ["batch entries", "top entries", "top streams"])
def test_values_and_every_gradient_are_those_of_dense_products(parts, way, monkeypatch):
    monkeypatch.setattr(encoders, "BLOCK", 16)  # 40 rows do not divide into blocks
    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    got, want = run(parts, way), run(parts, way.split()[0] + " dense")
    same(got, want)
    assert all(float(jnp.abs(slope).max()) > 0 for slope in want[1].values())
    counts = np.asarray(want[0][1][1])
    assert counts.sum() == N * K and (counts.min() < K < counts.max() if way.startswith("batch") else True)


@pytest.mark.parametrize("mapped", [False, True])
def test_eight_devices_choose_and_learn_what_one_does(parts, mapped):
    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (value, (codes, counts, least, fired)), slopes = run(parts, "batch entries")
    x = np.asarray(parts["x"])
    parts = parts | {"x": x}
    if mapped:
        def one(x, others):
            out, slopes = jax.value_and_grad(loss, has_aux=True)(others | {"x": x}, "batch entries", "batch")
            return out, jax.lax.pmean(slopes, "batch")

        others = {name: value for name, value in parts.items() if name != "x"}
        got, moved = jax.pmap(one, axis_name="batch", in_axes=(0, None))(x.reshape(8, 5, D), others)
        same(got[0].mean(), value)
        same((got[1][0].reshape(N, M), got[1][1].reshape(N), got[1][2][3]), (codes, counts, least))
        same(jax.tree.map(lambda a: a[3], got[1][3]), fired)
        same({n: moved[n][0] for n in others}, {n: slopes[n] for n in others})
    else:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        parts["x"] = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        same(run(parts, "batch entries"), ((value, (codes, counts, least, fired)), slopes))


def test_one_example_may_take_the_whole_budget_and_none_may_fire():
    pre = np.full((N, M), -1.0, np.float32)
    nothing, pre[7] = pre.copy(), np.arange(1.0, M + 1)

    @jax.jit
    def run(pre):
        codes, least = batch_topk_entries(encoders.of_pre(pre), K)
        return dense(codes, M), least

    full, least = run(pre)
    want = np.where(pre >= M - N * K + 1, pre, 0.0)
    assert float(least) == M - N * K + 1 and np.count_nonzero(want) == N * K
    np.testing.assert_array_equal(full, want)
    full, least = run(nothing)
    assert float(least) == 0.0 and not np.any(full)


def test_ties_go_to_lower_places_and_the_budget_is_kept():
    """All entries equal but two: both of these are chosen, and the first of the others."""
    pre = np.ones((8, 64), np.float32)
    pre[7, 60], pre[3, 5] = 2.0, 3.0
    want = np.zeros(512)
    want[:70] = 1.0
    want[3 * 64 + 5], want[7 * 64 + 60] = 3.0, 2.0

    def chosen(pre, axis_name=None):
        return dense(batch_topk_entries(encoders.of_pre(pre), 9, axis_name)[0], 64)

    np.testing.assert_array_equal(np.ravel(jax.jit(chosen)(pre)), want)
    mapped = jax.pmap(lambda pre: chosen(pre, "batch"), "batch")(pre[:, None])
    np.testing.assert_array_equal(np.ravel(mapped), want)


def test_top_k_by_groups_is_top_k_with_ties_and_infinities():
    rng = np.random.default_rng(0)
    plain, fast = jax.jit(jax.lax.top_k, static_argnums=1), jax.jit(ranking.top_k, static_argnums=1)
    for width, k in ((8192, 32), (96, 5), (60, 60), (64, 1)):
        x = rng.integers(-3, 30, (9, width)).astype(np.float32)  # many ties
        x[3], x[4, ::2] = -np.inf, -np.inf
        for got, want in zip(fast(x, k), plain(x, k), strict=True):
            np.testing.assert_array_equal(got, want)
    assert ranking.group_size(8192, 32) == 16


def test_rows_are_added_where_they_belong_though_many_share_a_target():
    rng = np.random.default_rng(1)
    weights, indices, x = rng.normal(size=(333, 3)), rng.integers(0, 7, (333, 3)), rng.normal(size=(333, 5))
    want = np.zeros((7, 5))
    for i in range(333):
        for w, j in zip(weights[i], indices[i], strict=True):
            want[j] += w * x[i]
    got = jax.jit(add_rows, static_argnums=3)(*(jnp.asarray(a, jnp.float32) for a in (weights,)), jnp.asarray(indices),
                                              jnp.asarray(x, jnp.float32), 7)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_streams_without_sparse_gradients_are_refused(parts):
    with pytest.raises(ValueError, match="set sparse=True"):
        encoders.linear(parts["x"], parts["encoder"], parts["bias"], False, None, True)


@pytest.mark.parametrize("sparsifier", ["topk", "batch_topk"])
def test_a_system_learns_by_entries_what_it_learns_densely(sparsifier, monkeypatch):
    config = base()
    config.model = dictionary.defaults()
    config.model.update(dict(sparsifier=sparsifier, atoms=M, k=K, auxk=0.0))
    config.optim.update(dict(name="sgd", b1=0.0, learning_rate=0.1, average=0.0))
    config.batch_size = N
    batch = {"x": jax.random.normal(jax.random.key(6), (N, D))}

    def learned(pays):
        monkeypatch.setattr(sparsity, "sparse_pays", lambda atoms, k: pays)
        system = dictionary.build(config, batch)

        @jax.jit
        def run(batch):
            state = system.init(jax.random.key(0), batch)
            for step in range(2):
                state, metrics = system.step(state, batch, jax.random.key(step))
            return state.params, state.extra.activity, metrics

        return run(batch)

    same(learned(True), learned(False))
