"""Members of an ensemble or a sweep are the runs that they stand for."""

import json

import jax
import numpy as np
import pytest
from test_configs import get_config

from jaxae.train import ensemble, train
from jaxae.train.config import ConfigError
from jaxae.train.setup import open_run


def small(**changes):
    config = get_config("vae", "tiny")
    config.update(dict(steps=6, log_every=3, eval_every=6, figures_every=0, checkpoint_every=6))
    config.evaluators = ()
    config.data.binarize = "none"  # members share the test batches, and so their binarisation
    for key, value in changes.items():
        if "." in key:
            parent, leaf = key.split(".")
            config[parent][leaf] = value
        else:
            with config.unlocked():
                config[key] = value
    return config


def test_member_i_is_the_run_with_seed_plus_i(tmp_path):
    results = train(small(ensemble=3, seed=5), tmp_path / "ensemble")
    members = open_run(tmp_path / "ensemble").members()
    losses = []
    for i in range(3):
        alone = train(small(seed=5 + i), tmp_path / str(i))
        losses.append(alone["metrics"]["loss"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                     members[i].params, open_run(tmp_path / str(i)).members()[0].params)
    # The members differ by far more than that tolerance: in their start, their order and their noise.
    assert np.std(losses) > 1e-3 * np.mean(losses)
    mean, spread = results["metrics"]["loss"]
    # Members are evaluated with noise of their own seeds, as the single runs are.
    np.testing.assert_allclose([mean, spread], [np.mean(losses), np.std(losses, ddof=1)], rtol=1e-3)
    row = [json.loads(line) for line in (tmp_path / "ensemble" / "metrics.jsonl").read_text().splitlines()][0]
    assert row["train/loss_sd"] > 0


def test_swept_values_train_side_by_side(tmp_path):
    rates = (1e-4, 3e-3)
    train(small(sweep=(("optim.learning_rate", rates), ("model.beta", (1.0, 4.0)))), tmp_path / "sweep")
    members = open_run(tmp_path / "sweep").members()
    for i, (rate, beta) in enumerate(zip(rates, (1.0, 4.0), strict=True)):
        train(small(**{"optim.learning_rate": rate, "model.beta": beta}), tmp_path / str(i))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                     members[i].params, open_run(tmp_path / str(i)).members()[0].params)


def test_sweeps_of_unequal_length_or_unknown_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same length"):
        ensemble.size(small(sweep=(("optim.learning_rate", (1e-3, 1e-4)), ("model.beta", (1.0,)))))
    with pytest.raises((ConfigError, ValueError), match="no key config.model.betta"):
        train(small(sweep=(("model.betta", (1.0, 2.0)),)), tmp_path)
