"""Sweeps: every member is what it would be alone; and the front that the command draws from them."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from claims import fronts  # noqa: E402
from claims.training import config_of, trained  # noqa: E402

from jaxae import data  # noqa: E402
from jaxae.metrics import pw_mcc  # noqa: E402
from jaxae.systems.base import State  # noqa: E402
from jaxae.systems.sparse import dictionary  # noqa: E402
from jaxae.train import ensemble, sweeps  # noqa: E402
from jaxae.train.config import ConfigError  # noqa: E402
from jaxae.train.sweeps import sweep, traced_keys  # noqa: E402

RNG = np.random.default_rng(0)
DATA = data.from_arrays(RNG.normal(0, 1, (96, 5)).astype(np.float32), test_x=RNG.normal(0, 1, (20, 5)).astype("f"))


def _config(**options):
    return config_of(dictionary, 4, **(dict(batch_size=32, atoms=8, auxk=0.1, aux_atoms=4, dead_after=10) | options))


@pytest.fixture(scope="module")
def members():
    """Two programs of two weights and two seeds each, on the same batches."""
    settings = [{"model.k": k, "model.l1": l1} for k, l1 in ((2, 0.0), (3, 0.3), (2, 0.2), (3, 0.0))]
    return settings, sweep(_config(seeds=2), settings, DATA)


def test_members_are_in_the_order_of_the_settings_and_are_what_they_would_be_alone(members):
    settings, found = members
    assert [(m.setting, m.seed) for m in found] == [(s, seed) for s in settings for seed in (0, 1)]
    member = found[3]
    assert sorted(member.test) == sorted(sweeps.reported(_config(), settings[0], DATA))
    config = _config(**{key.removeprefix("model."): value for key, value in member.setting.items()})
    config.seed = member.seed
    alone = trained(config, DATA)
    for name, value in alone.test.items():
        np.testing.assert_allclose(member.test[name], value[0], rtol=2e-5, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(member.variables), jax.tree.leaves(alone.members[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    x = jnp.asarray(DATA.test.arrays()["x"])
    np.testing.assert_allclose(member.system.reconstruct(member.variables, x),
                               alone.system.reconstruct(alone.members[0], x), atol=1e-5)


def test_programs_of_different_numbers_of_members_keep_the_order(monkeypatch):
    calls = []

    def fake(configs, dataset, example):
        calls.append(sorted(config.model.k for config in configs))
        return [(State(*[np.arange(ensemble.size(c))] * 5), {"fvu": np.array(
            [100 * c.model.k + 10 * label["model.l1"] + label["seed"] for label in ensemble.labels(c)])})
                for c in configs]

    monkeypatch.setattr(sweeps, "_trained", fake)
    settings = [{"model.l1": float(l1), "model.k": k} for k, l1 in ((2, 1), (3, 2), (2, 3), (4, 4), (5, 5), (2, 6))]
    found = sweep(_config(seeds=2), settings, DATA)
    assert calls == [[3, 4, 5], [2]]
    assert [m.test["fvu"] for m in found] == [100 * s["model.k"] + 10 * s["model.l1"] + seed for s in settings
                                              for seed in (0, 1)]


def test_keys_are_traced_where_the_system_does_not_branch_on_them():
    example = {"x": jax.ShapeDtypeStruct((32, 5), np.float32)}

    setting = {"model.k": 2, "model.l1": 0.1, "model.atoms": 9, "optim.learning_rate": 0.1, "model.sparsifier": "topk"}
    assert traced_keys(_config(), [setting], example) == ("model.l1", "optim.learning_rate")
    # What is not read without AuxK is read with it.
    settings = [{"model.auxk": 0.0, "model.aux_atoms": 4}, {"model.auxk": 0.1, "model.aux_atoms": 4}]
    assert traced_keys(_config(auxk=0.0), settings, example) == ("model.auxk",)


@pytest.mark.parametrize("settings, message", [
    ([{"model.kk": 1}], r"no key config.model.kk \(did you mean config.model.k\?\)"),
    ([{"batch_size": 4}], "config.batch_size cannot be swept, as all settings train on the same batches"),
    ([{"model.k": 1}, {"model.l1": 1.0}], "the same keys in each"), ([], "at least one setting"),
])
def test_what_cannot_be_swept_gets_one_clear_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        sweep(_config(), settings, DATA)


def test_an_over_names_a_family_lines_and_what_runs_along_them():
    one = fronts.family("relu+tied:model.sparsifier=topk,batch_topk model.atoms=8 model.l1=0.1,1e-3")
    assert (one.variants, one.names, one.along) == ("relu+tied", ("model.sparsifier", "model.atoms"), "model.l1")
    assert len(one.settings) == 4 and one.settings[1] == {"model.sparsifier": "topk", "model.atoms": 8,
                                                          "model.l1": 1e-3}
    assert fronts.label(one, one.settings[3], "sae") == "relu tied batch_topk atoms 8"
    plain = fronts.family("model.k=4,8")
    assert (plain.variants, plain.names) == ("", ()) and fronts.label(plain, plain.settings[0], "sae") == "sae"
    for wrong in ("relu", "relu:model.l1", "model.k="):
        with pytest.raises(ConfigError, match="must be FAMILY:KEY=VALUE,VALUE"):
            fronts.family(wrong)


def test_the_front_is_what_nothing_beats_in_both():
    x, y = RNG.integers(0, 6, (2, 40)).astype(float)
    beaten = [any(x[j] <= x[i] and y[j] <= y[i] and (x[j], y[j]) != (x[i], y[i]) for j in range(40)) for i in range(40)]
    np.testing.assert_array_equal(fronts.front(x, y), ~np.array(beaten))


def test_rows_tables_and_figures_have_the_numbers_of_the_members(members, tmp_path):
    settings, found = members
    one = fronts.Family("", ("model.k",), "model.l1", settings)
    rows = [fronts.row(fronts.label(one, s, "sae"), one.along, found[2 * i:2 * i + 2]) for i, s in enumerate(settings)]
    text = fronts.write(rows, tmp_path / "out", "l0", "fvu", "dead", {"seeds": 2})
    saved = json.loads((tmp_path / "out" / "pareto.json").read_text())["rows"]
    assert [r["line"] for r in saved] == ["k 2", "k 3", "k 2", "k 3"] and saved[1]["value"] == 0.3
    for i, r in enumerate(saved):
        pair = found[2 * i:2 * i + 2]
        assert r["test"]["fvu"] == [m.test["fvu"] for m in pair]
        np.testing.assert_allclose(r["pw_mcc"], pw_mcc([m.variables.params["decoder"] for m in pair]).mean)
    best = fronts.front(*(np.array([np.mean(r["test"][name]) for r in saved]) for name in ("l0", "fvu")))
    assert [" * |" in line for line in text.splitlines()[2:]] == best.tolist()
    assert f"{saved[0]['pw_mcc']:.3f} |" in text.splitlines()[2]
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="no test metric 'mse': choose --x, --y and --beside among auxk, dead"):
        fronts.write(rows, tmp_path, "l0", "mse", "", {})
