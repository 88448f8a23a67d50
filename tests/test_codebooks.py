"""Vector, SimVQ and Gumbel-softmax quantizers against closed forms, by-hand composition and frozen peers."""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxae import quantizers
from jaxae.quantizers.codebook import CodeUse, sample_code, vector
from jaxae.quantizers.gumbel import gumbel
from jaxae.quantizers.simvq import simvq

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "quantizers.npz")
KEY = jax.random.key(0)
REPLICAS = 8


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def objective(quantizer, g, learned, moving, z, key, train=True):
    """A loss through every path of a quantizer: a linear decoder of z_q, and its own loss; and what it returned."""
    found = quantizer.quantize(z, quantizers.Codes(learned, moving), key, train)
    n = z.shape[0]
    return jnp.mean(found.loss + jnp.sum((found.z_q * g).reshape(n, -1), -1)), found


def step_of(quantizer):
    """Jitted (g, state, z, key) -> Quantized, gradient of `objective` by what is learned and by z."""
    def step(g, state, z, key):
        (_, found), (by_learned, by_z) = jax.value_and_grad(
            lambda learned, z: objective(quantizer, g, learned, state.moving, z, key), (0, 1), has_aux=True)(
                state.learned, z)
        return found, by_learned, by_z
    return jax.jit(step)


def check_layouts(make, state, z, key, by_pmap=False, check_vma=False):
    """A training step on one device, on 8 by jit and on 8 by shard_map or pmap: outputs, new state and gradients."""
    g = normal(99, *z.shape)
    one = step_of(make(None))(g, state, z, key)
    mesh = jax.make_mesh((REPLICAS,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("d")
    sharded = step_of(make(None))(*jax.device_put((g, state), (NamedSharding(mesh, rows), NamedSharding(
        mesh, PartitionSpec()))), jax.device_put(z, NamedSharding(mesh, rows)), key)

    def replica(g, state, z, key):
        found, by_learned, by_z = step_of(make("d"))(g, state, z, key)
        return found, jax.lax.pmean(by_learned, "d"), by_z / REPLICAS

    def split(x):
        return x.reshape(REPLICAS, -1, *x.shape[1:])

    if by_pmap:
        found, by_learned, by_z = jax.pmap(replica, "d", in_axes=(0, None, 0, None))(split(g), state, split(z), key)
        for copy in jax.tree.leaves((found.state, by_learned)):
            np.testing.assert_array_equal(copy[0], copy[-1])
        first = jax.tree.map(lambda x: x[0], (found.state, by_learned))
        whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (found._replace(state=()), by_z))
        mapped = whole[0]._replace(state=first[0]), first[1], whole[1]
    else:
        specs = (quantizers.Quantized(rows, rows, rows, PartitionSpec(), rows), PartitionSpec(), rows)
        mapped = jax.jit(jax.shard_map(replica, mesh=mesh, in_specs=(rows, PartitionSpec(), rows, PartitionSpec()),
                                       out_specs=specs, check_vma=check_vma))(g, state, z, key)
    for other in (sharded, mapped):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), one, other)


LAYOUTS = {
    "ema": lambda axis: vector(12, 3, revive=0.5, axis_name=axis),
    "sampled cosine gradient": lambda axis: vector(12, 3, codebook="gradient", distance="cosine", temperature=0.3,
                                                   revive=0.5, axis_name=axis),
    "gumbel": lambda axis: gumbel(12, 3, logits="distance", axis_name=axis),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_training_step_is_that_of_one_device_on_eight(name):
    state = LAYOUTS[name](None).init(KEY)
    if name == "ema":  # some codes dead
        state = state._replace(moving=quantizers.ema_codebook(normal(1, 12, 3))._replace(counts=jnp.arange(12) * 0.1))
    check_layouts(LAYOUTS[name], state, normal(2, 16, 4, 3), jax.random.key(3), by_pmap=name == "ema")


@pytest.mark.parametrize("codebook, start", [("ema", "kmeans"), ("gradient", "data")])
def test_the_vector_quantizer_is_the_vq_vae_by_hand(codebook, start):
    """Value, losses, state, start and revival are those that the functions of this package give one by one."""
    quantizer = vector(10, 3, codebook=codebook, beta=0.4, decay=0.9, revive=0.3, start=start)
    z, key, vectors = normal(1, 6, 5, 3), jax.random.key(7), normal(2, 100, 3)
    old_counts = jnp.array([1.0] * 4 + [0.01] * 6)
    moving = codebook == "ema"

    @jax.jit
    def run(z, vectors, key):
        started = quantizer.start(vectors, quantizer.init(KEY), key)
        table = quantizers.kmeans(vectors, 10, key, 20 if start == "kmeans" else 0)
        started = (started.moving.codes if moving else started.learned, table)
        table = table.at[4:].add(100.0)  # so that nothing chooses these, which are dead by `old_counts`
        state = quantizers.Codes((), quantizers.EMACodebook(table, old_counts, table)) if moving else \
            quantizers.Codes(table, CodeUse(old_counts, table))
        found, hand = quantizer.quantize(z, state, key, True), quantizers.vector_quantize(z, table)
        if moving:
            updated = quantizers.revive(quantizers.ema_update(state.moving, z, hand.indices, 0.9), z, key, 0.3)
            revived = None
        else:
            counts = 0.9 * old_counts + 0.1 * jnp.bincount(hand.indices.ravel(), length=10)
            updated = CodeUse(counts, quantizers.sample_rows(z.reshape(-1, 3), key, 10))
            revived = quantizer.after(found.state, KEY)
        return started, state, found, hand, updated, revived, quantizer.quantize(z, state, key, False)

    started, state, found, hand, updated, revived, still = run(z, vectors, key)
    np.testing.assert_array_equal(*started)
    np.testing.assert_array_equal(found.indices, hand.indices)
    np.testing.assert_array_equal(found.z_q, hand.z_q)
    loss = 0.4 * hand.commitment_loss + (0.0 if moving else hand.codebook_loss)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
    np.testing.assert_array_equal(found.metrics["commitment"], hand.commitment_loss)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found.state.moving, updated)
    if moving:
        assert quantizer.after is None
    else:
        table = state.learned
        np.testing.assert_array_equal(found.state.learned, table)
        np.testing.assert_array_equal(revived.learned, jnp.concatenate([table[:4], updated.fresh[4:]]))
        np.testing.assert_allclose(revived.moving.counts[4:], 0.6)
    jax.tree.map(np.testing.assert_array_equal, still.state, state)
    np.testing.assert_array_equal(still.indices, found.indices)


KINDS = {
    "ema": vector(9, 3), "cosine": vector(9, 3, distance="cosine"),
    "cosine gradient": vector(9, 3, codebook="gradient", distance="cosine", estimator="rotation"),
    "simvq": simvq(9, 3, basis=5), "gumbel": gumbel(9, 3), "gumbel by distance": gumbel(9, 3, logits="distance"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_lookup_of_indices_is_z_q_and_every_code_is_its_own_nearest(kind):
    quantizer = KINDS[kind]
    state, z = quantizer.init(KEY), normal(4, 7, 2, 3)

    @jax.jit
    def run(z):
        found = quantizer.quantize(z, state, jax.random.key(1), True)
        codes = quantizer.lookup(jnp.arange(9), state)
        again = quantizer.quantize(7.0 * codes if "cosine" in kind else codes, state, KEY, False)
        return found.z_q, quantizer.lookup(found.indices, state), codes, again

    z_q, looked_up, codes, again = run(z)
    np.testing.assert_allclose(z_q, looked_up, atol=1e-6)
    assert len(np.unique(np.asarray(codes), axis=0)) == 9
    if kind != "gumbel":  # a projection may prefer another code
        np.testing.assert_array_equal(again.indices, np.arange(9))
        np.testing.assert_allclose(again.z_q, codes, atol=1e-6)
    if "cosine" in kind:
        np.testing.assert_allclose(jnp.linalg.norm(codes, axis=-1), 1.0, rtol=1e-5)


def test_cosine_gradients_are_the_closed_form_and_never_along_the_vector():
    """With z^ = z / |z| the gradient is that of the straight-through VQ at z^, times (1 - z^ z^T) / |z|."""
    n, d, k, beta = 11, 4, 6, 0.25
    z, codes, g = 3.0 * normal(5, n, d), 2.0 * normal(6, k, d), np.asarray(normal(99, n, d))
    quantizer = vector(k, d, codebook="gradient", distance="cosine", beta=beta, revive=0.0)
    step, state = step_of(quantizer), quantizers.Codes(codes, CodeUse(jnp.ones(k), codes))
    found, by_codes, by_z = step(g, state, z, KEY)
    unit = np.asarray(z / jnp.linalg.norm(z, axis=-1, keepdims=True), np.float64)
    unit_codes = np.asarray(codes / jnp.linalg.norm(codes, axis=-1, keepdims=True), np.float64)
    index = (unit @ unit_codes.T).argmax(-1)
    np.testing.assert_array_equal(found.indices, index)
    at_unit = (g + 2 * beta / d * (unit - unit_codes[index])) / n
    expected = (at_unit - unit * (unit * at_unit).sum(-1, keepdims=True)) / np.linalg.norm(z, axis=-1)[:, None]
    np.testing.assert_allclose(by_z, expected, rtol=1e-4, atol=1e-6)
    assert np.abs((np.asarray(by_z) * unit).sum(-1)).max() < 1e-6
    at_codes = np.zeros((k, d))
    np.add.at(at_codes, index, 2 / d / n * (unit_codes[index] - unit))
    expected = (at_codes - unit_codes * (unit_codes * at_codes).sum(-1, keepdims=True))
    np.testing.assert_allclose(by_codes, expected / np.linalg.norm(codes, axis=-1)[:, None], rtol=1e-4, atol=1e-6)
    _, _, at_zero = step(g, state, 0.0 * z, KEY)
    assert np.isfinite(at_zero).all()


@pytest.mark.parametrize("name", ["euclidean", "cosine"])
def test_ema_codebooks_agree_with_vector_quantize_pytorch(name):
    quantizer = vector(8, 4, distance=name, decay=0.8, beta=0.0, revive=0.0)
    start = jnp.asarray(GOLDEN[f"{name}/start"])
    state = quantizers.Codes((), quantizers.ema_codebook(start))
    step = step_of(quantizer)
    for i in range(2):
        x, g = GOLDEN[f"{name}/x"][i], GOLDEN[f"{name}/g"][i]
        found, _, by_z = step(g, state, x, KEY)
        theirs = {what: GOLDEN[f"{name}/{i}/{what}"] for what in
                  ("indices", "z_q", "codes", "counts", "sums", "commitment", "gradient")}
        np.testing.assert_array_equal(found.indices, theirs["indices"])
        np.testing.assert_allclose(found.z_q, theirs["z_q"], atol=1e-5)
        for what in ("codes", "counts", "sums"):
            np.testing.assert_allclose(getattr(found.state.moving, what), theirs[what], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.metrics["commitment"].mean(), theirs["commitment"], rtol=1e-5)
        np.testing.assert_allclose(3 * np.asarray(by_z), theirs["gradient"], rtol=1e-4, atol=1e-5)
        state = found.state


def test_simvq_agrees_with_vector_quantize_pytorch_and_moves_every_code():
    """Loss and both gradients; beta is on the commitment. One step down the gradient moves codes nothing chose."""
    quantizer = simvq(8, 4, beta=0.25)
    state = quantizers.Codes(jnp.asarray(GOLDEN["simvq/map"]), jnp.asarray(GOLDEN["simvq/frozen"]))
    x, step = GOLDEN["simvq/x"], step_of(quantizer)
    found, by_map, by_z = step(np.zeros_like(x), state, x, KEY)
    np.testing.assert_array_equal(found.indices, GOLDEN["simvq/indices"])
    np.testing.assert_allclose(found.z_q, GOLDEN["simvq/z_q"], atol=1e-5)
    np.testing.assert_allclose(found.loss.mean(), GOLDEN["simvq/loss"], rtol=1e-5)
    np.testing.assert_allclose(by_z, GOLDEN["simvq/by_x"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_map, GOLDEN["simvq/by_map"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.loss, 0.25 * found.metrics["commitment"] + found.metrics["codebook"], rtol=1e-6)
    few, by_few, _ = step(np.zeros_like(x), state, np.broadcast_to(x[:, :1], x.shape), KEY)
    assert len(np.unique(few.indices)) <= 3
    assert (np.linalg.norm(np.asarray(state.moving) @ by_few, axis=-1) > 1e-6).all()
    # The decoder's gradient does not reach the map.
    _, by_both, _ = step(normal(3, *x.shape), state, x, KEY)
    np.testing.assert_allclose(by_both, by_map, rtol=1e-5, atol=1e-7)


def test_a_revived_code_stays_on_its_vector_while_nothing_chooses_it():
    """The trap of stale sums: after revival, updates on batches that never choose the code leave it where it is."""
    quantizer = vector(2, 2, distance="cosine", revive=0.2)
    far = jnp.array([[1.0, 0.0], [-1.0, 0.01]])
    state = quantizers.Codes((), quantizers.EMACodebook(far, jnp.array([5.0, 0.01]), far * jnp.array([[5.0], [0.01]])))
    step = jax.jit(partial(quantizer.quantize, train=True))
    first = jnp.array([[1.0, 0.5], [1.0, 0.5]])
    revived = step(first, state, KEY).state
    expected = first[0] / jnp.linalg.norm(first[0])
    np.testing.assert_allclose(revived.moving.codes[1], expected, rtol=1e-5)
    later = revived
    for i in range(20):
        later = step(jnp.array([[1.0, -0.1], [1.0, -0.2]]), later, jax.random.key(i)).state
    assert later.moving.counts[1] > 0.2
    np.testing.assert_allclose(later.moving.codes[1], expected, rtol=1e-3)


def test_codes_are_sampled_with_softmax_frequencies_in_training_only():
    k, n, temperature = 5, 20_000, 0.7
    codes, point = normal(8, k, 2), jnp.array([0.3, -0.2])
    quantizer = vector(k, 2, temperature=temperature, revive=0.0)
    state = quantizers.Codes((), quantizers.ema_codebook(codes))
    z = jnp.tile(point, (n, 1))
    p = np.asarray(jax.nn.softmax(-jnp.sum((point - codes) ** 2, -1) / temperature), np.float64)
    found, still = jax.jit(lambda z: [quantizer.quantize(z, state, KEY, train) for train in (True, False)])(z)
    counts = np.bincount(found.indices, minlength=k)
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 23.5  # chi-square of 4 degrees, one in ten thousand
    np.testing.assert_allclose(found.z_q, np.asarray(codes)[found.indices], atol=1e-6)
    # Rows are independent: the joint counts of neighbours are products.
    pairs = np.bincount(k * np.asarray(found.indices[::2]) + np.asarray(found.indices[1::2]), minlength=k * k)
    joint = n / 2 * np.outer(p, p).ravel()
    assert ((pairs - joint) ** 2 / joint).sum() < 60.0  # 24 degrees
    assert len(np.unique(still.indices)) == 1


LARGE = {
    "averages": vector(65_536, 4), "cosine": vector(65_536, 4, distance="cosine"),
    "sampled": vector(65_536, 4, temperature=1.0),
    "gradients": vector(65_536, 4, codebook="gradient"), "simvq": simvq(65_536, 4),
    "gumbel": gumbel(65_536, 4), "gumbel by distance": gumbel(65_536, 4, logits="distance"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_65536_codes_never_meet_all_vectors_at_once(kind):
    """A training step, forward and backward, with the new state and its statistics; compiled, not run."""
    k, n, d = 65_536, 16_384, 4
    quantizer = LARGE[kind]
    state = jax.eval_shape(quantizer.init, KEY)
    z = jax.ShapeDtypeStruct((n, d), jnp.float32)
    memory = step_of(quantizer).lower(z, state, z, KEY).compile().memory_analysis()
    # Chunks of 256 rows: scores, noise and what makes them, a few arrays of 67 MB; all vectors would take 4,295 MB.
    assert memory.temp_size_in_bytes < 0.12 * 4 * n * k


def test_sampling_does_not_depend_on_chunks():
    """Row i of many is row i of few."""
    z, codes = normal(9, 3000, 2), normal(10, 6, 2)
    sample = jax.jit(lambda z: sample_code(z, codes, KEY, 0.5))
    np.testing.assert_array_equal(sample(z)[:500], sample(z[:500]))


def test_bad_options_are_told_what_to_do():
    with pytest.raises(ValueError, match="codebook='sgd' must be one of 'ema', 'gradient'"):
        vector(8, 2, codebook="sgd")
    with pytest.raises(ValueError, match="codes=1 must be at least 2"):
        simvq(1, 2)
    with pytest.raises(ValueError, match="3 vectors, 8 codes"):
        vector(8, 2).start(jnp.zeros((3, 2)), vector(8, 2).init(KEY), KEY)
    with pytest.raises(ValueError, match="'kmeans' with logits='distance'"):
        gumbel(8, 2, start="kmeans")
    for quantizer in (vector(8, 2, temperature=1.0), vector(8, 2), gumbel(8, 2)):
        with pytest.raises(ValueError, match="width 3, the codebook holds width 2"):
            quantizer.quantize(jnp.zeros((4, 3)), quantizer.init(KEY), KEY, True)


LOOKED_UP = {
    "codebook": vector(5, 2), "gradients": vector(5, 2, codebook="gradient"), "simvq": simvq(5, 2),
    "gumbel": gumbel(5, 2), "scalars": quantizers.finite_scalar((5, 4)),
    "residual scalars": quantizers.residual_finite_scalar((5, 4), 2), "signs": quantizers.lookup_free(3),
    "latent": quantizers.latent_quantization(2, 5), "product": quantizers.product(simvq(5, 1), 2),
    "residual": quantizers.residual(simvq(5, 2), 2),
}


@pytest.mark.parametrize("kind", LOOKED_UP)
def test_codes_of_another_codebook_are_refused_where_they_can_be_seen(kind):
    quantizer = LOOKED_UP[kind]
    state, places = quantizer.init(KEY), (quantizer.places,) if quantizer.places > 1 else ()
    for wrong in (-2, quantizer.codes):
        with pytest.raises(ValueError, match=f"integers from 0 to {quantizer.codes - 1}, .*quantizer that they come"):
            quantizer.lookup(jnp.full((3, *places), wrong), state)
    last = jnp.full((3, *places), quantizer.codes - 1)
    np.testing.assert_allclose(quantizer.lookup(last, state), jax.jit(quantizer.lookup)(last, state), atol=1e-6)
