"""Maps larger than the prior's: windows, logits and samples against the prior on each window by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import TINY, key_of, random_params

from jaxae.priors import autoregressive, axial, transformer
from jaxae.priors.sliding_window import sample_windows, window_corner, window_logits

K, WINDOW, LARGE = 5, (3, 4), (5, 7)


def codes_of(*shape, seed=0):
    return jnp.array(np.random.default_rng(seed).integers(0, K, shape))


@functools.cache
def given_maps():
    """A prior of the codes of an image given those of its map, as of configs/prior.py:semantic."""
    prior = transformer((2, 12), K, prefix=1, **TINY)
    return prior, random_params(prior, codes_of(1, 2, 12), scale=0.7)


@functools.cache
def of_maps():
    prior = autoregressive(WINDOW, K, hidden=8, layers=2, first_kernel=3, embed=4)
    return prior, random_params(prior, codes_of(1, *WINDOW), scale=0.7)


def test_a_place_is_in_the_middle_of_its_window_or_as_near_as_the_border_lets_it():
    for size, window in ((7, 4), (9, 3), (5, 5)):
        corners = np.asarray(window_corner(jnp.arange(size), size, window))
        for place, corner in enumerate(corners):
            fitting = [c for c in range(size - window + 1) if c <= place < c + window]
            assert corner == min(fitting, key=lambda c: abs(place - c - window // 2))


def step_by_step(prior, params, latents):
    """Logits `[m t k]` of sequences `[m t]` by the prior's own sampling steps: another path than `prior.logits`."""
    cache, advance = prior.steps(params, len(latents))
    before = jnp.concatenate([0 * latents[:, :1], latents[:, :-1]], 1)
    return jax.lax.scan(lambda cache, code: advance(code, cache)[::-1], cache, before.T)[1].swapaxes(0, 1)


def test_every_places_logits_are_those_of_the_prior_on_its_window():
    prior, params = given_maps()
    codes, given = np.asarray(codes_of(1, *LARGE)), np.asarray(codes_of(1, *LARGE, seed=1))
    found = jax.jit(functools.partial(window_logits, prior, window=WINDOW))(params, codes, given=given)
    places, windows, local = list(np.ndindex(*LARGE)), [], []
    for i, j in places:
        top, left = min(max(i - 1, 0), LARGE[0] - 3), min(max(j - 2, 0), LARGE[1] - 4)
        cut = (0, slice(top, top + 3), slice(left, left + 4))
        windows.append(np.concatenate([given[cut].ravel(), codes[cut].ravel()]))
        local.append(12 + (i - top) * 4 + j - left)
    by_steps = jax.jit(functools.partial(step_by_step, prior))(params, jnp.array(windows))
    want = np.asarray(by_steps)[np.arange(len(places)), local].reshape(*LARGE, K)
    np.testing.assert_allclose(found[0], want, atol=1e-5)
    assert np.abs(want - want[0, 0]).max() > 0.1


@pytest.mark.parametrize("kind", ["given", "autoregressive"])
def test_of_a_map_as_large_as_the_window_samples_are_the_priors_own(kind):
    if kind == "given":
        (prior, params), given = given_maps(), codes_of(6, *WINDOW, seed=2)
        want = prior.sample(params, key_of(0), 6, given=given.reshape(6, 1, 12), top_k=3)[:, 1].reshape(6, *WINDOW)
        found = sample_windows(prior, params, key_of(0), WINDOW, WINDOW, given=given, top_k=3)
    else:
        prior, params = of_maps()
        want = prior.sample(params, key_of(0), 6, temperature=0.7)
        found = sample_windows(prior, params, key_of(0), WINDOW, WINDOW, n=6, temperature=0.7)
    np.testing.assert_array_equal(found, want)
    assert len(np.unique(found)) > 2


def test_each_code_is_drawn_from_its_windows_logits_by_one_program_for_every_place():
    prior, params = given_maps()
    traced = []
    counted = prior._replace(logits=lambda *args: traced.append(1) or prior.logits(*args))
    given = codes_of(2, *LARGE, seed=3)
    codes = sample_windows(counted, params, key_of(0), LARGE, WINDOW, given=given)

    @jax.jit
    def drawn_again(codes):
        logits = window_logits(prior, params, codes, WINDOW, given)
        each = jnp.moveaxis(logits.reshape(2, -1, K), 1, 0)
        keys = jax.vmap(lambda t: jax.random.fold_in(key_of(0), t))(12 + jnp.arange(len(each)))
        noise = jax.lax.map(lambda key: jax.random.gumbel(key, (2, K)), keys)
        return (each + noise).argmax(-1).T.reshape(codes.shape)

    np.testing.assert_array_equal(codes, drawn_again(codes))
    assert len(traced) == 1 and np.any(codes[0] != codes[1])


@pytest.mark.parametrize("change, message", [
    (dict(shape=(2, 7)), "as large as the window"), (dict(given=codes_of(2, 5, 6)), "one for each place"),
    (dict(prior=axial(WINDOW, K, width=8, heads=2, outer=1, inner=1, encoder=1)), "'transformer' or 'autoregressive'")])
def test_what_cannot_be_sampled_says_why(change, message):
    options = dict(prior=given_maps()[0], params={}, key=key_of(0), shape=LARGE, window=WINDOW, given=None) | change
    with pytest.raises(ValueError, match=message):
        sample_windows(**options)
