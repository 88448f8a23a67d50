"""Dictionaries with structure as the system trains them: hulls of data, biases that follow a rule, factorised codes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from jaxae import data, sae, systems
from jaxae.sae import bias_adaptation
from jaxae.systems.base import variables
from jaxae.systems.sparse import dictionary
from jaxae.train.config import base

N, D = 64, 6


def compiled(steps=0, **model):
    """A system, `run(key)` that gives its first state and those after each update on one small batch, and the batch."""
    config = base()
    config.system, config.model = "sparse.dictionary", dictionary.defaults()
    config.model.update(dict(k=2, center=False, offset="zero") | model)
    config.update(dict(batch_size=N, steps=max(steps, 1)))
    config.optim.learning_rate = 0.05
    planted = data.load(dict(source="dictionary", atoms=12, atom_dim=D, num_train=N, num_test=1)).train
    x = jnp.asarray(planted.arrays()["x"])
    system = systems.build(config, {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})

    @jax.jit
    def run(key):
        start = system.prepare(system.init(key, {"x": x}), {"x": x}, key)

        def step(state, key):
            state, _ = system.step(state, {"x": x}, key)
            return state, state

        return start, jax.lax.scan(step, start, jax.random.split(key, steps))[1]

    return system, run, x


def at(states, i):
    return jax.tree.map(lambda a: a[i], states)


def outside(atoms, candidates):
    """Least |a - w C| with w >= 0 and sum w = 1, the latter by a row of great weight."""
    system = np.vstack([np.float64(candidates).T, np.full((1, len(candidates)), 1e3)])
    weights = [nnls(system, np.append(np.float64(a), 1e3))[0] for a in atoms]
    return np.array([np.linalg.norm(w / w.sum() @ np.float64(candidates) - a)
                     for w, a in zip(weights, np.float64(atoms), strict=True)])


def test_trained_archetypes_stay_at_the_hull_of_points_that_do_not_move():
    system, run, x = compiled(steps=25, atoms=8, decoder="archetypal", unit_norm=False, candidates=16,
                               delta=0.2)
    start, states = run(jax.random.key(0))
    other, _ = run(jax.random.key(1))
    candidates = start.extra.memory["candidates"]
    assert outside(candidates, x).max() < 1e-4  # they are means of data
    np.testing.assert_array_equal(other.extra.memory["candidates"], candidates)  # the same for every seed
    assert (other.params["weights"] != start.params["weights"]).any()  # of which each starts at others
    last = variables(at(states, -1))
    np.testing.assert_array_equal(last.extra.memory["candidates"], candidates)
    before, after = jax.jit(lambda *many: [system.decode(now, jnp.eye(8)) - system.decode(now, jnp.zeros((1, 8)))
                                           for now in many])(variables(start), last)
    np.testing.assert_allclose(outside(before, candidates), 0, atol=1e-4)
    away = outside(np.asarray(after) / np.exp(float(last.params["log_scale"])), candidates)
    assert 0.1 < away.max() <= 0.2 + 1e-4  # trained, up to the bound
    weights = np.asarray(last.params["weights"])
    assert weights.min() >= 0 and (weights > 0).sum() > 8
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


def test_biases_move_by_the_rule_alone():
    """Between adaptations they stand still; then each moves as the rule says of what was seen since.

    Nor does the offset move, which acts as a bias where it is subtracted from inputs.
    """
    options = dict(atoms=8, center=True, offset="mean", fixed_offset=True, encoder="tied", decoder="scaled",
                   sparsifier="relu", bias="adapted", input="unit", error="sum", groups=2, target=0.2,
                   adapt_every=5, bias_rate=0.02)
    system, run, x = compiled(steps=20, **options)
    start, states = run(jax.random.key(0))
    assert "bias" not in start.params  # so that no optimizer has it
    biases = np.asarray(states.extra.memory["bias"])
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    x = x - x.mean(0)
    np.testing.assert_allclose(states.params["offset"], jnp.broadcast_to(start.params["offset"], (20, D)), atol=1e-7)
    targets, bias = bias_adaptation.geometric_targets(8, 2, 0.2), jnp.zeros(8)
    note = jax.jit(lambda seen, decoder, bias: bias_adaptation.accumulate(seen, x @ decoder.T + bias))
    decoders = jnp.concatenate([start.params["decoder"][None], states.params["decoder"]])
    rule = jax.jit(partial(bias_adaptation.adapt, groups=2, down=0.02, up=0.02))
    for period in range(4):
        seen = bias_adaptation.start_bias_adaptation(8)
        for i in range(5 * period, 5 * period + 5):  # update i + 1 sees the atoms of state i
            seen = note(seen, decoders[i], bias)
            if i % 5 < 4:
                np.testing.assert_allclose(biases[i], bias, atol=1e-6)
        bias, _ = rule(bias, seen, targets)
        np.testing.assert_allclose(biases[5 * period + 4], bias, atol=1e-5)
    assert biases[-1].min() < -0.05 and biases.max() <= 0


def test_factorised_codes_are_the_k_largest_pairs_of_units():
    system, run, x = compiled(steps=3, atoms=24, encoder="kron", heads=3, bases=2, extensions=4, k=4)
    _, states = run(jax.random.key(0))
    now = variables(at(states, -1))
    units = np.maximum(np.asarray(x) @ np.asarray(now.params["encoder"]) + np.asarray(now.params["bias"]), 0)
    base, extension = units[:, :6].reshape(N, 3, 2), units[:, 6:].reshape(N, 3, 4)
    expected = jax.jit(lambda p, q: sae.dense(sae.kron_topk(p, q, 4), 24))(base, extension)
    codes, y = jax.jit(lambda now, x: (system.encode(now, x), system.reconstruct(now, x)))(now, x)
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    assert (np.asarray(codes) > 0).sum() > N  # something is active
    np.testing.assert_allclose(y, codes @ now.params["decoder"] + now.params["offset"], atol=1e-4)
