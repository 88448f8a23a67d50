"""The rule by which biases follow firing frequencies, by hand and as a controller."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.sae import bias_adaptation as ba


def seen(count, max_pre, n):
    return ba.BiasAdaptation(jnp.array(count, jnp.int32), jnp.array(max_pre, jnp.float32), jnp.int32(n))


def test_the_rule_by_hand():
    """Groups {0, 1, 2} with target 0.2 and {3, 4, 5} with 0.1: too often, as wanted, silent; the bounds of both."""
    state = seen([50, 20, 0, 11, 0, 90], [2.0, 1.0, 0.0, 0.5, 0.0, 400.0], 100)
    bias = jnp.array([-0.1, -0.1, -0.1, -0.1, -1e-3, -0.1])
    targets = ba.geometric_targets(6, 2, 0.2)
    moved, fresh = jax.jit(partial(ba.adapt, groups=2, down=0.01, up=0.03))(bias, state, targets)
    expected = [-0.1 - 0.02,        # 0.5 > 0.2: down by its own largest pre-activation
                -0.1,               # 0.2 is not above 0.2
                -0.1 + 0.03 * 1.0,  # silent: up by the mean of its group, (2 + 1 + 0) / 3
                -0.1 - 0.005,       # 0.11 > 0.1
                0.0,                # silent, and no bias is above 0
                -1.0]               # nor below -1
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    assert not any(np.any(a) for a in fresh)


def test_statistics_are_the_largest_and_the_count_over_all_batches():
    x = jax.random.normal(jax.random.key(0), (3, 40, 5)) - jnp.array([0.0, 1.0, 2.0, 5.0, -9.0])
    state = ba.start_bias_adaptation(5)
    for batch in x:
        state = jax.jit(ba.accumulate)(state, batch)
    flat = np.asarray(x).reshape(-1, 5)
    np.testing.assert_array_equal(state.count, (flat > 0).sum(0))
    np.testing.assert_array_equal(state.max_pre, np.maximum(flat.max(0), 0))
    assert state.n == 120 and state.count[3] == 0 and state.max_pre[3] == 0


def test_one_device_is_eight():
    pre = jax.random.normal(jax.random.key(1), (64, 6)) - 1.0
    one = jax.jit(ba.accumulate)(ba.start_bias_adaptation(6), pre)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.jit(ba.accumulate)(ba.start_bias_adaptation(6),
                                    jax.device_put(pre, NamedSharding(mesh, PartitionSpec("data"))))
    mapped = jax.pmap(lambda p: ba.accumulate(ba.start_bias_adaptation(6), p, "data"), "data")(pre.reshape(8, 8, 6))
    for a, b, c in zip(one, spread, mapped, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (np.asarray(c) == np.asarray(a)).all()


def test_frequencies_come_to_their_targets_whatever_the_scale():
    """Fixed pre-activations x + b of Gaussian x: the share above 0 comes to just below each target,
    from where the rule, which only holds back what fires, does not raise it."""
    targets = ba.geometric_targets(40, 4, 0.4)

    @jax.jit
    def settle(scale):
        def period(bias, key):  # in units of the scale, by which the rule's moves grow
            pre = scale * (0.2 * jax.random.normal(key, (2000, 40)) + bias)
            state = ba.accumulate(ba.start_bias_adaptation(40), pre)
            return ba.adapt(scale * bias, state, targets, 4)[0] / scale, (pre > 0).mean(0)

        return jax.lax.scan(period, jnp.zeros((40,)), jax.random.split(jax.random.key(2), 150))[1]

    for scale in (1.0, 0.5):
        shares = settle(scale)
        share = shares[-20:].mean(0) / targets
        assert float(shares[0].min()) > 0.45 and 0.65 < float(share.min()) and float(share.max()) <= 1.02


def test_groups_are_even_and_targets_geometric():
    assert np.bincount(ba.group_of(13, 4)).tolist() == [4, 3, 3, 3]
    np.testing.assert_allclose(ba.geometric_targets(20, 10, 0.5)[::2], 0.5 * 0.5 ** np.arange(10), rtol=1e-6)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="3 targets for 2 biases"):
        ba.adapt(jnp.zeros(2), ba.start_bias_adaptation(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="3 atoms cannot form 4 groups"):
        ba.geometric_targets(3, 4)
    with pytest.raises(ValueError, match="lie in"):
        ba.geometric_targets(8, 4, highest=1.5)
