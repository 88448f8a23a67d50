"""Edits along atoms against loops, erasure of concepts against closed forms, baselines against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxae.sae import interventions as iv
from jaxae.sae import linear_dictionaries as linear

RNG = np.random.default_rng(0)


def _run(n=6, d=5, m=9):
    return tuple(RNG.standard_normal(s).astype(np.float32) for s in ((n, d), (n, m), (n, m), (m, d)))


def test_patched_activations_are_the_sum_of_the_changes():
    x, codes, other, atoms = _run()
    expected = x.copy()
    for i in (2, 7):
        expected += np.outer(other[:, i] - codes[:, i], atoms[i])
    patch = jax.jit(iv.patch_features)
    np.testing.assert_allclose(patch(x, codes, other, atoms, np.array([7, 2])), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(patch(x, codes, other, atoms, np.isin(np.arange(9), [2, 7])),
                                  patch(x, codes, other, atoms, np.array([2, 7])))
    everything = patch(x, codes, other, atoms, np.ones(9, bool))       # keeps what the dictionary leaves out
    np.testing.assert_allclose(everything - other @ atoms, x - codes @ atoms, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(patch(x, codes, codes, atoms, np.array([3])), x)


def test_an_erased_feature_is_one_that_is_patched_to_zero():
    x, codes, _, atoms = _run()
    erased = jax.jit(iv.erase_feature)
    patch = jax.jit(iv.patch_features)
    for i in (0, 8):
        np.testing.assert_allclose(erased(x, codes, atoms, i), patch(x, codes, 0 * codes, atoms, np.array([i])),
                                   rtol=1e-5, atol=1e-6)


def test_each_feature_is_erased_in_turn():
    x, codes, _, atoms = _run()
    found = jax.jit(lambda *v: iv.each_erased(lambda x: (x.sum(), x[0]), *v))(x, codes, atoms)
    expected = [x - np.outer(codes[:, i], atoms[i]) for i in range(9)]
    np.testing.assert_allclose(found[0], [e.sum() for e in expected], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1], [e[0] for e in expected], rtol=1e-4, atol=1e-5)


def test_features_are_patched_in_the_order_of_their_change_or_greedily():
    codes, other = np.zeros((4, 3), np.float32), np.tile(np.float32([1, -3, 2]), (4, 1))
    other[:, 2] *= [1, -1, 1, -1]                                      # changes that cancel do not count
    assert jax.jit(iv.patching_order)(codes, other).tolist() == [1, 0, 2]
    table = RNG.uniform(size=2**5).astype(np.float32)

    def damage(mask):
        return jnp.asarray(table)[(mask * 2 ** jnp.arange(5)).sum()]

    which, left = jax.jit(lambda: iv.greedy_patching(damage, 5, 5))()
    chosen = 0
    for i, value in zip(which, left, strict=True):
        rest = [j for j in range(5) if not chosen >> j & 1]
        best = min(rest, key=lambda j: table[chosen | 1 << j])
        assert int(i) == best and value == table[chosen | 1 << best]
        chosen |= 1 << best
    assert chosen == 31


def _labelled(n=400, d=6):
    y = RNG.integers(0, 3, n)
    mixing = RNG.standard_normal((d, d))
    return ((RNG.standard_normal((n, d)) + np.eye(d)[y] * 2) @ mixing + 3).astype(np.float32), y


def test_least_squares_erasure_removes_all_covariance_and_moves_activations_least():
    x, y = _labelled()
    z = np.eye(3)[y].astype(np.float32)
    out = np.asarray(jax.jit(lambda x, z: iv.leace(x, z)(x))(x, z), np.float64)
    x, centred = x.astype(np.float64), z - z.mean(0)
    assert np.abs((out - out.mean(0)).T @ centred / len(x)).max() < 1e-4
    np.testing.assert_allclose(out.mean(0), x.mean(0), atol=1e-4)
    # B = I - A minimises tr(B S B') under B C = C, by Lagrange: B = C (C' S^-1 C)^-1 C' S^-1.
    s, c = np.cov(x.T, bias=True), (x - x.mean(0)).T @ centred[:, :2] / len(x)
    inverse = np.linalg.inv(s)
    b = c @ np.linalg.inv(c.T @ inverse @ c) @ c.T @ inverse
    np.testing.assert_allclose(out, x - (x - x.mean(0)) @ b.T, atol=2e-3)


def test_erasing_the_difference_of_means_leaves_the_means_equal_but_moves_more():
    x, y = _labelled()
    y = (y == 0).astype(np.float32)
    simple = np.asarray(jax.jit(lambda x, y: iv.mean_eraser(x, y)(x))(x, y))
    least = np.asarray(jax.jit(lambda x, y: iv.leace(x, y[:, None])(x))(x, y))
    for out in (simple, least):
        np.testing.assert_allclose(out[y == 1].mean(0), out[y == 0].mean(0), atol=2e-3)
    assert np.square(least - x).sum() < 0.99 * np.square(simple - x).sum()
    flat = np.concatenate([x, x[:, :2]], 1)                           # a singular covariance
    assert np.isfinite(jax.jit(lambda x, y: iv.leace(x, y[:, None])(x))(flat, y)).all()


def test_eight_devices_erase_what_one_does():
    x, y = _labelled(64)
    z = np.eye(3)[y].astype(np.float32)

    def both(x, z, axis_name=None):
        first, second = iv.leace(x, z, axis_name=axis_name), iv.mean_eraser(x, z[:, 0], axis_name)
        return first.projection, first.centre, second.projection, second.centre

    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    mapped = jax.shard_map(lambda *v: both(*v, axis_name="data"), mesh=mesh, in_specs=PartitionSpec("data"),
                           out_specs=PartitionSpec())
    for a, b in zip(jax.jit(both)(x, z), jax.jit(mapped)(x, z), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_stitched_latents_keep_their_pre_activations():
    from jaxae.sae.stitching import stitched

    def parameters(m):
        return {name: jnp.asarray(RNG.standard_normal(size), jnp.float32) for name, size in (
            ("encoder", (5, m)), ("bias", (m,)), ("decoder", (m, 5)), ("offset", (5,)), ("scale", (m,)))}

    def pre(p, x):
        return (x - p["offset"]) @ p["encoder"] + p["bias"]

    a, b, x = parameters(7), parameters(4), RNG.standard_normal((6, 5)).astype(np.float32)
    both = jax.jit(lambda a, b: stitched(a, b, np.array([True, False, False, True])))(a, b)
    np.testing.assert_allclose(pre(both, x), np.c_[pre(a, x), pre(b, x)[:, jnp.array([0, 3])]], rtol=1e-4, atol=1e-4)
    for name in ("decoder", "scale"):
        np.testing.assert_array_equal(both[name], np.concatenate([a[name], b[name][jnp.array([0, 3])]]))
    np.testing.assert_array_equal(both["offset"], a["offset"])
    plain = stitched(a, b, np.array([2]), centred=False)
    np.testing.assert_array_equal(plain["bias"], np.r_[a["bias"], b["bias"][2]])
    with pytest.raises(ValueError, match="of one kind"):
        stitched(a, {k: v for k, v in b.items() if k != "scale"}, np.array([0]))
    with pytest.raises(ValueError, match="same input and output widths"):
        stitched(a, b | {"decoder": b["decoder"][:, :3]}, np.array([0]))


# Dictionaries to compare with

def test_principal_directions_are_scikit_learns_turned_to_their_long_tail():
    from sklearn.decomposition import PCA
    x = (RNG.exponential(size=(500, 4)) * [4, 3, 2, 1] * [-1, 1, 1, -1]) @ np.linalg.qr(RNG.standard_normal((4, 4)))[0]
    found = np.asarray(jax.jit(linear.pca_dictionary, static_argnums=1)(x.astype(np.float32), 3))
    expected = PCA(3).fit(x).components_
    np.testing.assert_allclose(np.abs((found * expected).sum(1)), 1, atol=1e-4)
    assert (((x - x.mean(0)) @ found.T) ** 3).mean(0).min() > 0


def test_independent_components_are_the_planted_atoms():
    atoms = RNG.standard_normal((4, 4))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = RNG.exponential(size=(4000, 4)) * (RNG.random((4000, 4)) < 0.3) * [1, 2, 3, 4]
    cosine = np.asarray(linear.ica_dictionary(codes @ atoms, 4)) @ atoms.T
    assert np.sort(cosine.max(0))[0] > 0.98 and sorted(cosine.argmax(1)) == [0, 1, 2, 3]
    principal = np.asarray(linear.pca_dictionary(jnp.asarray(codes @ atoms, jnp.float32), 4)) @ atoms.T
    assert principal.max(0).mean() < 0.95


@pytest.mark.parametrize("call, message", [
    (lambda: iv.patch_features(*(jnp.ones(s) for s in ((3, 2), (3, 4), (3, 5), (4, 2))), np.array([0])), "two codes"),
    (lambda: iv.greedy_patching(lambda mask: mask.sum() * 1.0, 3, 4), "1 to 3 of 3"),
    (lambda: linear.pca_dictionary(jnp.ones((3, 5)), 4), "at most as many atoms"),
    (lambda: linear.ica_dictionary(np.ones((3, 5)), 4), "at most as many atoms"),
])
def test_wrong_calls_get_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
