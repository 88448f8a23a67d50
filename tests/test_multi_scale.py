"""Multi-scale residual quantization against a hand loop, PyTorch's pooling and closed-form gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxae.quantizers.multi_scale import (
    METHODS,
    downsample,
    multi_scale,
    multi_scale_lookup,
    multi_scale_quantize,
    split_scales,
    upsample,
)

SCALES = (1, 2, 3, 7)
LENGTH, D, K = 1 + 4 + 9 + 49, 3, 16


def _maps(n=2, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.float32(rng.normal(size=(n, 7, 7, D))), jnp.float32(0.7 * rng.normal(size=(K, D)))


def _pooled(x, size):
    """Adaptive average pooling, cell by cell."""
    h, w = x.shape[1:3]
    out = np.zeros((len(x), *size, x.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * h // size[0], int(np.ceil((i + 1) * h / size[0])))
            columns = slice(j * w // size[1], int(np.ceil((j + 1) * w / size[1])))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def _linear(x, size):
    """Bilinear interpolation between pixel centres, constant beyond the outermost."""
    def axis(old, new):
        where = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(where.astype(int), old - 1)
        high, weight = np.minimum(low + 1, old - 1), where - low
        return np.eye(old)[low] * (1 - weight)[:, None] + np.eye(old)[high] * weight[:, None]

    return np.einsum("ha,nabd,wb->nhwd", axis(x.shape[1], size[0]), x, axis(x.shape[2], size[1]))


def test_quantization_is_the_papers_loop():
    z, codebook = _maps()
    found = jax.jit(lambda z, c: multi_scale_quantize(z, c, SCALES, "linear"))(z, codebook)
    left, total, begin = np.asarray(z, np.float64), 0.0, 0
    for k, s in enumerate(SCALES):
        small = _pooled(left, (s, s))
        index = ((small[..., None, :] - np.asarray(codebook)) ** 2).sum(-1).argmin(-1)
        whole = _linear(np.asarray(codebook, np.float64)[index], (7, 7))
        total, left = total + whole, left - whole
        np.testing.assert_array_equal(found.indices[:, begin:begin + s * s], index.reshape(2, -1))
        np.testing.assert_allclose(found.residuals[:, begin:begin + s * s], small.reshape(2, -1, D), atol=1e-5)
        np.testing.assert_allclose(found.partial[k], total, atol=1e-5)
        begin += s * s
    assert begin == found.indices.shape[1] == LENGTH


@pytest.mark.parametrize("method", METHODS)
def test_lookup_of_the_indices_is_the_sum_of_the_pass_and_of_each_of_its_scales(method):
    z, codebook = _maps()
    found = jax.jit(lambda z, c: multi_scale_quantize(z, c, SCALES, method))(z, codebook)
    look = jax.jit(lambda i, c: multi_scale_lookup(i, c, SCALES, method))
    np.testing.assert_allclose(look(found.indices, codebook), found.partial[-1], atol=1e-5)
    np.testing.assert_allclose(look(found.indices[:, :5], codebook), found.partial[1], atol=1e-5)
    assert np.all(multi_scale_lookup(found.indices[:, :0], codebook, SCALES) == 0)
    maps = split_scales(found.indices, SCALES)
    assert [m.shape for m in maps] == [(2, s, s) for s in SCALES]
    np.testing.assert_array_equal(np.concatenate([m.reshape(2, -1) for m in maps], 1), found.indices)


def test_resizing_keeps_what_it_must():
    x = jnp.float32(np.random.default_rng(1).normal(size=(2, 12, 8, D)))
    np.testing.assert_allclose(downsample(x, (3, 4)), x.reshape(2, 3, 4, 4, 2, D).mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(downsample(x, (5, 3)), _pooled(np.asarray(x), (5, 3)), atol=1e-6)
    for method in METHODS:
        np.testing.assert_array_equal(upsample(x, (12, 8), method), x)
        np.testing.assert_allclose(upsample(jnp.ones((1, 2, 3, 1)), (7, 7), method), 1, atol=1e-6)
    # Keys' kernel with a = -1/2 reproduces a parabola away from the borders; neither a = -3/4 nor the line does.
    centres = (np.arange(24) + 0.5) / 3 - 0.5
    found = upsample(jnp.float32(np.arange(8.0) ** 2)[None, :, None, None], (24, 1))[0, :, 0, 0]
    np.testing.assert_allclose(found[6:-6], centres[6:-6] ** 2, atol=1e-4)


def test_error_falls_with_scales_and_a_fine_codebook_leaves_almost_nothing():
    z, _ = _maps(8)
    grid = np.stack(np.meshgrid(*[np.linspace(-3.5, 3.5, 15)] * D, indexing="ij"), -1).reshape(-1, D)
    found = jax.jit(lambda z, c: multi_scale_quantize(z, c, SCALES))(z, jnp.float32(grid))
    error = np.square(found.partial - z).mean((1, 2, 3, 4))
    assert np.all(np.diff(error) < 0)
    # The last scale quantizes each residual to the nearest of a grid of step 1/2.
    assert np.abs(found.partial[-1] - z).max() < 0.25 + 1e-5
    assert error[-1] == pytest.approx(0.5**2 / 12, rel=0.1)


def test_gradients_move_the_codes_by_the_loss_and_the_encoder_by_commitment_and_straight_through():
    """Everything after the assignment is linear in the codes: F_k = U_k codes, with U_k found column by column."""
    z, codebook = _maps(2)
    quantizer, beta = multi_scale(D, K, SCALES, moving=False, beta=0.3), 0.3
    state = quantizer.init(jax.random.key(0))._replace(learned=codebook)
    push = jnp.float32(np.random.default_rng(2).normal(size=z.shape))

    @jax.jit
    def gradients(z, state):
        def value(z, state):
            q = quantizer.quantize(z, state, jax.random.key(0), True)
            return (q.loss.sum() + (push * q.z_q).sum()), q

        (by_z, by_state), q = jax.grad(value, (0, 1), has_aux=True)(z, state)
        partial = multi_scale_quantize(z, codebook, SCALES).partial
        return by_z, by_state.learned, q, partial

    by_z, by_codes, q, partial = gradients(z, state)
    size = 49 * D * len(SCALES)
    np.testing.assert_allclose(by_z, push + beta * 2 / size * (z[None] - partial).sum(0), rtol=1e-4, atol=1e-6)
    maps = split_scales(q.indices, SCALES)
    used = np.zeros((len(SCALES), 2, 7, 7, K))  # weight of each code in each pixel of the sum up to each scale
    for k, codes in enumerate(maps):
        used[k] = (used[k - 1] if k else 0) + np.asarray(upsample(jax.nn.one_hot(codes, K), (7, 7)))
    expected = np.einsum("knhwc,knhwd->cd", used, np.asarray(2 / size * (partial - z[None])))
    np.testing.assert_allclose(by_codes, expected, rtol=1e-3, atol=1e-5)
    loss = ((1 + beta) * np.square(partial - z[None]).mean((0, 2, 3, 4)))
    np.testing.assert_allclose(q.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(q.z_q, partial[-1], atol=1e-6)
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(q.indices, state), q.z_q, atol=1e-5)


def test_moving_codes_are_the_means_of_the_residuals_assigned_on_one_device_and_many():
    z, codebook = _maps(16)
    key = jax.random.key(3)
    one, many = (multi_scale(D, K, SCALES, decay=0.0, epsilon=1e-9, threshold=1e-6, axis_name=name)
                 for name in (None, "batch"))
    state = one.init(key)
    state = state._replace(moving=state.moving._replace(codes=codebook))
    q, still, found = jax.jit(lambda z, s: (one.quantize(z, s, key, True), one.quantize(z, s, key, False).state,
                                            multi_scale_quantize(z, codebook, SCALES)))(z, state)
    index, rows = np.asarray(found.indices).ravel(), np.asarray(found.residuals).reshape(-1, D)
    for j in range(K):
        if np.any(index == j):
            np.testing.assert_allclose(q.state.moving.codes[j], rows[index == j].mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(q.loss, 0.25 * q.metrics["commitment"])
    jax.tree.map(np.testing.assert_array_equal, still, state)  # evaluation moves nothing

    mesh = Mesh(np.array(jax.devices()), ("batch",))
    spread = jax.jit(jax.shard_map(lambda z, s: many.quantize(z, s, key, True), mesh=mesh, in_specs=(P("batch"), P()),
                                   out_specs=q._replace(z_q=P("batch"), indices=P("batch"), loss=P("batch"), state=P(),
                                                        metrics=P("batch")), check_vma=False))(z, state)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(q), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_starting_from_data_puts_the_codes_on_clusters():
    centres = jnp.float32(np.random.default_rng(4).normal(0, 5, (K, D)))
    rows = jnp.repeat(centres, 5, axis=0)
    quantizer = multi_scale(D, K, SCALES)
    state = jax.jit(quantizer.start)(rows, quantizer.init(jax.random.key(0)), jax.random.key(1))
    distance = np.abs(np.asarray(state.moving.codes)[:, None] - np.asarray(centres)).max(-1)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-4)


def test_what_cannot_be_is_refused():
    z, codebook = _maps()
    with pytest.raises(ValueError, match="maps of 7 x 7 do not have the size of the last scale, 4 x 4"):
        multi_scale_quantize(z, codebook, (1, 4))
    with pytest.raises(ValueError, match="of which the last, the whole map, is the largest"):
        multi_scale(D, K, (4, 2))
    with pytest.raises(ValueError, match="method='nearest'"):
        multi_scale(D, K, SCALES, method="nearest")
    with pytest.raises(ValueError, match="6 codes does not fill whole scales"):
        multi_scale_lookup(jnp.zeros((1, 6), int), codebook, SCALES)
    with pytest.raises(ValueError, match="threshold restarts moving codes"):
        multi_scale(D, K, SCALES, moving=False, threshold=1.0)
