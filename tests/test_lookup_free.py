"""Sign codes: every index, entropies against the whole codebook written out, gradients, and batches on many devices."""

import itertools
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxae.quantizers.lookup_free import binary_spherical, bit_entropies, bits_to_indices, indices_to_bits, lookup_free

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "scalar_quantizers.npz")
KEY = jax.random.key(0)
MAKERS = {"lfq": lookup_free, "bsq": binary_spherical}
entropies = jax.jit(bit_entropies, static_argnums=(1, 2, 3))


def normal(shape, scale=1.0, seed=0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def quantize(quantizer):
    return jax.jit(lambda z: quantizer.quantize(z, quantizer.init(KEY), KEY, True))


def enumerated(z, scale, temperature):
    """Both entropies from a softmax over all codes, by vectors and in the batch, in the precision of z."""
    codes = scale * jnp.array(list(itertools.product([-1.0, 1.0], repeat=z.shape[-1])), z.dtype)
    log_p = jax.nn.log_softmax(-jnp.sum((z[..., None, :] - codes)**2, -1) / temperature)
    p = jnp.exp(log_p)
    mean = p.reshape(-1, len(codes)).mean(0)
    return -(p * log_p).sum(-1).reshape(z.shape[0], -1).mean(1), -(mean * jnp.log(mean)).sum()


# ---------------------------------------------------------------- indices and codes

@pytest.mark.parametrize("bits, places", [(12, 1), (12, 3), (12, 12)])
def test_indices_and_bits_are_a_bijection_first_bit_most_significant(bits, places):
    table = np.array(list(itertools.product([False, True], repeat=bits)))  # counts up with its last bit the quickest
    indices, back = jax.jit(lambda t: (i := bits_to_indices(t, places), indices_to_bits(i, bits, places)))(table)
    base = 2**(bits // places)
    whole = np.asarray(indices).reshape(len(table), -1) @ base**np.arange(places)[::-1]
    np.testing.assert_array_equal(whole, np.arange(2**bits))
    np.testing.assert_array_equal(back, table)
    assert indices.shape == ((len(table), places) if places > 1 else (len(table),)) and indices.max() == base - 1


def test_thirty_bits_fill_an_int32_and_sixty_take_two():
    ones = jnp.ones((1, 60), bool)
    assert bits_to_indices(ones[:, :30]).tolist() == [2**30 - 1]
    np.testing.assert_array_equal(indices_to_bits(bits_to_indices(ones, 2), 60, 2), ones)


@pytest.mark.parametrize("name, scale, dtype", [("lfq", 1.0, jnp.bfloat16), ("bsq", 12**-0.5, jnp.float32)])
def test_quantizers_keep_the_contract_whatever_the_dtype(name, scale, dtype):
    quantizer = MAKERS[name](12)
    z = normal((4, 50, 12)).astype(dtype).at[0, 0, 0].set(0.0)
    got = quantize(quantizer)(z)
    signs = np.where(np.asarray(z, np.float32) > 0, 1, -1)
    np.testing.assert_array_equal(got.indices, (signs > 0) @ 2**np.arange(12)[::-1])
    assert (got.indices > 256).mean() > 0.9 and quantizer.codes == 2**12  # where bfloat16 has no odd integers
    looked = jax.jit(quantizer.lookup)(got.indices, got.state)
    np.testing.assert_allclose(looked, scale * signs, atol=1e-6)
    assert got.z_q.dtype == dtype and got.loss.shape == (4,)
    np.testing.assert_allclose(got.z_q.astype(jnp.float32), looked, rtol=2e-3 if dtype == jnp.bfloat16 else 1e-6)


def test_several_places_are_digits_of_one_code():
    z = normal((5, 3, 12))
    one, three = (quantize(lookup_free(12, places=p, group_bits=1))(z) for p in (1, 3))
    np.testing.assert_array_equal(three.indices @ np.array([256, 16, 1]), one.indices)
    looked = jax.jit(lambda i: lookup_free(12, places=3).lookup(i, ()))(three.indices)
    np.testing.assert_allclose(looked, three.z_q, atol=1e-6)


# ---------------------------------------------------------------- entropies

def test_entropies_and_their_gradients_are_those_of_the_whole_codebook():
    bits, scale, temperature = 7, 7**-0.5, 0.2
    z = 1.5 * scale * normal((6, 4, bits))

    def weighed(entropies_of, z):
        sample, batch = entropies_of(z)
        return (sample * jnp.arange(1.0, 7.0)).sum() - 3.0 * batch, (sample, batch)

    got = jax.jit(jax.grad(lambda z: weighed(lambda z: bit_entropies(z, scale, temperature), z), has_aux=True))(z)
    with jax.enable_x64(True):
        z = jnp.asarray(np.asarray(z, np.float64))
        want = jax.jit(jax.grad(lambda z: weighed(lambda z: enumerated(z, scale, temperature), z), has_aux=True))(z)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, (want[0], want[1]))


def test_groups_add_their_exact_entropies_which_bounds_the_whole():
    z = normal((8, 4, 7)) + normal((8, 4, 1), 2.0, 1)  # correlated bits
    whole = entropies(z, 1.0, 1.0, 7)
    parts = entropies(z, 1.0, 1.0, 3)  # cut 3 + 3 + 1
    with jax.enable_x64(True):
        z = jnp.asarray(np.asarray(z, np.float64))
        want = jax.jit(lambda z: sum(enumerated(z[..., i:i + 3], 1.0, 1.0)[1] for i in (0, 3, 6)))(z)
        plus = (1 / (1 + np.exp(-4 * np.asarray(z)))).reshape(-1, 7).mean(0)
    np.testing.assert_allclose(parts.batch, want, rtol=1e-5)
    np.testing.assert_allclose(parts.sample, whole.sample, rtol=1e-5)
    independent = entropies(z.astype(jnp.float32), 1.0, 1.0, 1).batch
    np.testing.assert_allclose(independent, -(plus * np.log(plus) + (1 - plus) * np.log1p(-plus)).sum(), rtol=1e-5)
    assert whole.batch + 0.1 < parts.batch < independent - 0.1


def test_cold_assignments_count_hard_codes_and_have_finite_gradients():
    """At a hundredth every probability but one is 0 in float32: then the batch's entropy is that of the codes."""
    z = normal((64, 1, 10), 5.0)
    z = jnp.where(jnp.abs(z) < 0.5, 0.5, z)
    (value, got), slope = jax.jit(jax.value_and_grad(
        lambda z: ((e := bit_entropies(z)).sample.sum() + e.batch + bit_entropies(z, group_bits=4).batch, e),
        has_aux=True))(z)
    _, counts = np.unique(np.asarray(z[:, 0]) > 0, axis=0, return_counts=True)
    np.testing.assert_allclose(got.batch, -(counts / 64 * np.log(counts / 64)).sum(), rtol=1e-5)
    np.testing.assert_allclose(got.sample, 0.0, atol=1e-6)
    assert np.isfinite(value) and np.isfinite(slope).all()


# ---------------------------------------------------------------- gradients

@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_decoders_gradient_is_straight_through_the_projection(name):
    z, g = normal((6, 5)), normal((6, 5), seed=1)
    back = jax.jit(jax.grad(lambda z: (MAKERS[name](5).quantize(z, (), KEY, True).z_q * g).sum()))(z)
    z, want = np.asarray(z), np.asarray(g)
    if name == "bsq":  # (I - u u^T) g / |z|
        length = np.linalg.norm(z, axis=1, keepdims=True)
        want = (want - (want * z).sum(1, keepdims=True) * z / length**2) / length
    np.testing.assert_allclose(back, want, atol=1e-5)
    zero = jax.jit(jax.grad(lambda z: MAKERS[name](5).quantize(z, (), KEY, True).z_q.sum()))(jnp.zeros((1, 5)))
    assert np.isfinite(zero).all()


def test_loss_is_the_weighted_sum_and_its_gradient_the_closed_form():
    """Without the batch's term: 2 beta (z - c) / d - w a k s(a) s(-a) with a = k z, k = 4 / temperature."""
    quantizer = lookup_free(5, entropy_weight=0.3, diversity_gamma=0.0, beta=0.7, temperature=2.0)
    z = normal((6, 5))
    got = quantize(quantizer)(z)
    np.testing.assert_allclose(got.loss, 0.3 * got.metrics["sample_entropy"] + 0.7 * got.metrics["commitment"],
                               rtol=1e-6)
    back = jax.jit(jax.grad(lambda z: quantizer.quantize(z, (), KEY, True).loss.sum()))(z)
    z = np.asarray(z, np.float64)
    bend = 2 * z * 2 / (np.exp(z) + np.exp(-z))**2  # a k s(a) s(-a)
    np.testing.assert_allclose(back, 2 * 0.7 * (z - np.sign(z)) / 5 - 0.3 * bend, atol=1e-5)


def test_spherical_codes_are_within_their_bound_of_the_sphere():
    z = jnp.concatenate([normal((500, 6)), 1e3 * jnp.eye(6), jnp.ones((1, 6))])
    error = np.sqrt(6 * np.asarray(quantize(binary_spherical(6))(z).metrics["commitment"]))
    bound = np.sqrt(2 - 2 / np.sqrt(6))
    assert (error <= bound + 1e-5).all()
    np.testing.assert_allclose(error[-7:], [bound] * 6 + [0], atol=1e-5)


# ---------------------------------------------------------------- many devices, other libraries, bad input

def test_eight_devices_have_the_loss_and_gradient_of_one():
    x = normal((16, 3, 5)) + jnp.linspace(-1.0, 1.0, 16)[:, None, None]  # so that no replica's mean is the batch's

    def step(bend, x, axis_name=None):
        quantizer = binary_spherical(5, temperature=0.5, group_bits=2, beta=0.25, axis_name=axis_name)

        def loss(bend):
            losses = quantizer.quantize(x * bend, quantizer.init(KEY), KEY, True).loss
            return losses.mean(), losses

        return jax.grad(loss, has_aux=True)(bend)

    bend = jnp.linspace(0.5, 2.0, 5)
    one = jax.jit(step)(bend, x)
    mesh = jax.make_mesh((8,), ("r",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("r")
    spread = jax.jit(step)(bend, jax.device_put(x, NamedSharding(mesh, rows)))
    mapped = jax.jit(jax.shard_map(
        lambda b, x: (jax.lax.pmean((out := step(b, x, "r"))[0], "r"), out[1]), mesh=mesh,
        in_specs=(PartitionSpec(), rows), out_specs=(PartitionSpec(), rows), check_vma=False))(bend, x)
    replicas = jax.pmap(lambda x: step(bend, x, "r"), "r")(x.reshape(8, 2, 3, 5))
    for other in (spread, mapped, (replicas[0].mean(0), replicas[1].reshape(-1))):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), other, one)


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_codes_entropies_loss_and_gradient_are_those_of_vector_quantize_pytorch(name):
    quantizer = MAKERS[name](6, 0.1, 0.7, 0.25, temperature=1 / 0.3, group_bits=6)
    z = GOLDEN[f"{name}/z"]
    got = quantize(quantizer)(z)
    np.testing.assert_array_equal(got.indices, GOLDEN[f"{name}/indices"])
    np.testing.assert_allclose(got.z_q, GOLDEN[f"{name}/codes"], atol=1e-6)
    parts = [got.metrics[part].mean() for part in ("sample_entropy", "batch_entropy", "commitment")]
    np.testing.assert_allclose(parts, GOLDEN[f"{name}/parts"], rtol=1e-4)
    np.testing.assert_allclose(got.loss.mean(), GOLDEN[f"{name}/loss"], atol=1e-5)
    back = jax.jit(jax.grad(lambda z: quantizer.quantize(z, (), KEY, True).loss.mean()))(z)
    np.testing.assert_allclose(back, GOLDEN[f"{name}/gradient"], atol=1e-5)


def test_bad_input_is_told_what_to_do():
    with pytest.raises(ValueError, match="36 bits in 1 places.*more places"):
        lookup_free(36)
    with pytest.raises(ValueError, match="places divide the bits"):
        binary_spherical(9, places=2)
    with pytest.raises(ValueError, match="width 4, the quantizer takes 5 bits"):
        quantize(lookup_free(5))(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="temperature is positive"):
        quantize(lookup_free(5, temperature=0.0))(jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match="1 to 20 bits"):
        quantize(lookup_free(25, group_bits=25))(jnp.zeros((2, 25)))
