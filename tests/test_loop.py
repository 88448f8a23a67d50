"""What the loop promises: no recompilation, no hidden transfers, streams equal to resident data, exact averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src import monitoring

from jaxae import data
from jaxae.systems import builders
from jaxae.systems.base import Objective
from jaxae.train import feed, fit, sharding
from jaxae.train.loop import NonFiniteLoss, evaluate
from jaxae.train.program import Spec, make_program
from jaxae.train.setup import example_of


def regression(n=90):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(n, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=n)).astype(np.float32)
    return data.from_arrays(x, extra={"y": y}, test_x=x[:25], test_extra={"y": y[:25]})


def linear(rate=0.1):
    def loss(params, extra, batch, key, train):
        error = (batch["x"] @ params["w"] - batch["y"]) ** 2
        return Objective(error, {"noise": jax.random.normal(key)}, extra)
    return builders.one_loss(lambda key, batch: ({"w": jnp.zeros(3)}, ()), loss, optax.adam(rate))


def program_of(dataset, system, batch_size=10):
    mesh = sharding.make_mesh({"data": 1})
    spec = Spec(lambda axis_name: system, dataset.transform, dataset.test_transform, example_of(dataset, batch_size),
                jax.random.key(0))
    return make_program(spec, mesh)


def test_fit_reaches_least_squares_and_reports_exact_test_means():
    dataset = regression()
    state, history = fit(linear(), dataset, 600, jax.random.key(0), batch_size=10, record_every=100)
    train, test = dataset.train.arrays(), dataset.test.arrays()
    best = np.linalg.lstsq(train["x"], train["y"], rcond=None)[0]
    np.testing.assert_allclose(state.params["w"], best, atol=0.05)
    assert [row["step"] for row in history] == [100, 200, 300, 400, 500, 600]
    # 25 examples in batches of 10: the ragged end counts five rows.
    error = (test["x"] @ np.asarray(state.params["w"]) - test["y"]) ** 2
    np.testing.assert_allclose(history[-1]["test/loss"], error.mean(), rtol=1e-5)


def test_many_updates_in_a_call_are_the_updates_one_by_one():
    dataset, system = regression(), linear()
    program = program_of(dataset, system)
    whole = feed.resident(program, dataset.train, 10, (0,), False, 7)
    state, totals = whole(program.init(), 0, 7)
    single, sums = program.init(), 0.0
    for step in range(7):
        single, one = whole(single, step, step + 1)
        sums += program.fetch(one).sums["loss"]
    jax.tree.map(np.testing.assert_array_equal, program.fetch(state), program.fetch(single))
    np.testing.assert_allclose(program.fetch(totals).sums["loss"], sums, rtol=1e-6)


def test_streamed_batches_train_as_resident_ones():
    dataset, system = regression(), linear()
    program = program_of(dataset, system)
    resident, _ = feed.resident(program, dataset.train, 10, (0,), False, 25)(program.init(), 0, 25)
    advance, iterator = feed.streamed(program, dataset.train, 10, 0, 0)
    streamed, _ = advance(program.init(), 0, 12)
    saved = iterator.get_state()
    again, other = feed.streamed(program, dataset.train, 10, 0, 0)
    other.set_state(saved)
    streamed, _ = again(streamed, 12, 25)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), program.fetch(resident),
                 program.fetch(streamed))


def test_calls_of_any_length_compile_once_and_move_nothing_by_the_way():
    dataset = regression()
    program = program_of(dataset, linear())
    advance = feed.resident(program, dataset.train, 10, (0,), False, 20)
    state, totals = advance(program.init(), 0, 20)
    compiled = []
    monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None)
    with jax.transfer_guard("disallow"):
        for first, stop in ((20, 40), (40, 41), (41, 48), (48, 60)):
            state, totals = advance(state, first, stop)
    assert not compiled
    assert int(state.step) == 60 and int(totals.first_bad) == -1


def test_a_loss_that_stops_being_finite_is_named_with_its_step():
    def loss(params, extra, batch, key, train):
        return Objective(jnp.where(extra >= 13, jnp.nan, 1.0) + 0.0 * params["w"].sum() + 0 * batch["y"], {}, extra + 1)
    system = builders.one_loss(lambda key, batch: ({"w": jnp.zeros(3)}, jnp.zeros(())), loss, optax.sgd(0.0))
    with pytest.raises(NonFiniteLoss, match="step 13"):
        fit(system, regression(), 40, jax.random.key(0), batch_size=10, record_every=10)


def test_evaluation_does_not_depend_on_the_batch_size():
    dataset, system = regression(), linear()
    values = []
    for size in (5, 10, 16):
        program = program_of(dataset, system, size)
        values.append(float(evaluate(program, dataset.test, size, program.init())["loss"]))
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_rules_and_fsdp_place_parameters_by_name_and_size():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    abstract = {"params": {"dense": {"kernel": jax.ShapeDtypeStruct((64, 128), jnp.float32),
                                     "bias": jax.ShapeDtypeStruct((128,), jnp.float32)},
                           "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32)}}}
    placed = sharding.state_shardings(abstract, mesh, ((r"dense/kernel", (None, "tensor")),))["params"]
    assert tuple(placed["dense"]["kernel"].spec) == (None, "tensor")
    assert tuple(placed["conv"]["kernel"].spec) == (None, None, None, "fsdp")
    assert tuple(placed["dense"]["bias"].spec) == ()
    with pytest.raises(ValueError, match="not an axis"):
        sharding.state_shardings(abstract, mesh, ((r"kernel", ("model",)),))
