"""InfoM, InfoE and InfoC where the answer is known: whole grids of sources, closed forms, and quadrature."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from jaxae.metrics.infomec import infomec, nmi_matrix

GRID = np.tile(np.indices((5, 5, 5, 5)).reshape(4, -1).T, (8, 1))  # 5000 rows: 4 uniform, exactly independent sources
RNG = np.random.default_rng(0)
MIXED = GRID.copy()  # the first two sources entangled by a permutation of their product
MIXED[:, :2] = np.stack(np.divmod(RNG.permutation(25)[5 * GRID[:, 0] + GRID[:, 1]], 5), 1)


def test_identity_has_the_top_scores_whatever_its_names_and_order():
    values = np.linspace(-0.5, 0.5, 5)[::-1]
    for latents in (GRID, values[GRID[:, ::-1]]):
        scores = infomec(GRID, latents, discrete=True)
        np.testing.assert_allclose(scores[:3], [1, 1, 1], atol=1e-3)
        np.testing.assert_allclose([scores.infom, scores.infoc], [1, 1], atol=1e-5)
        assert scores.active.all()
    np.testing.assert_allclose(scores.nmi, np.eye(4)[:, ::-1], atol=1e-6)


def test_entangled_sources_lose_modularity_and_compactness_but_no_information():
    scores = infomec(GRID, MIXED, discrete=True)
    assert scores.infom < 0.85 and scores.infoc < 0.85 and scores.infoe < 0.9
    pairs = 5 * GRID[:, 0] + GRID[:, 1], 5 * MIXED[:, 0] + MIXED[:, 1]
    assert mutual_info_score(*pairs) == pytest.approx(np.log(25))
    # the half that is not mixed stays as it was: each mixed row's share of its largest entry, by hand
    block = np.array([[mutual_info_score(GRID[:, i], MIXED[:, j]) for j in (0, 1)] for i in (0, 1)]) / np.log(5)
    np.testing.assert_allclose(scores.nmi[:2, :2], block, atol=1e-6)
    for score, rows in ((scores.infom, block.T), (scores.infoc, block)):
        shares = (rows.max(1) / rows.sum(1)).sum() + 2
        assert score == pytest.approx((shares / 4 - 1 / 4) / (3 / 4), abs=1e-5)


def test_duplicated_latents_are_modular_and_three_sevenths_compact():
    scores = infomec(GRID, np.concatenate([GRID, GRID], 1), discrete=True)
    assert scores.infom == pytest.approx(1.0, abs=1e-5) and scores.infoe == pytest.approx(1.0, abs=1e-3)
    assert scores.infoc == pytest.approx((0.5 - 1 / 8) / (1 - 1 / 8), abs=1e-5)


def test_random_latents_explain_nothing_but_their_degrees_of_freedom():
    scores = infomec(GRID, RNG.integers(0, 5, GRID.shape), discrete=True)
    expected = 4 * 4 * 4 / (2 * 5000) / np.log(5)  # half a chi-square of 4 values x 4 latents x 4 classes
    assert scores.infoe == pytest.approx(expected, rel=0.5) and scores.infoe < 0.01
    assert scores.nmi.max() < 0.01


def test_nmi_is_that_of_scikit_learn_over_the_sources_entropy():
    sources = RNG.integers(0, [2, 7, 3], (700, 3)) * np.array([5, -1, 100]) - 3
    latents = np.round(0.02 * sources @ RNG.standard_normal((3, 4)) + 0.7 * RNG.standard_normal((700, 4)), 1)
    labels = [np.unique(column, return_inverse=True)[1] for column in latents.T]
    want = [[mutual_info_score(s, z) / mutual_info_score(s, s) for z in labels] for s in sources.T]
    np.testing.assert_allclose(nmi_matrix(sources, latents, discrete=True), want, rtol=1e-5)


def test_explicitness_is_the_unregularized_balanced_optimum_in_closed_form():
    """One discrete latent saturates the regression: p(s | z) is the posterior under equal priors, whatever the rows'
    own proportions. scikit-learn's default penalty, or unbalanced classes, would give another loss."""
    counts = np.array([[40, 10, 5], [4, 6, 20]])  # [sources latents]
    source, latent = np.repeat(np.indices(counts.shape).reshape(2, -1), counts.ravel(), 1)
    likelihood = counts / counts.sum(1, keepdims=True)
    posterior = likelihood / likelihood.sum(0)
    loss = -(counts * np.log(posterior)).sum() / counts.sum()
    scores = infomec(np.stack([source, source], 1), latent[:, None], discrete=True)
    assert scores.infoe == pytest.approx(1 - loss / np.log(2), abs=1e-4)
    assert np.isnan(scores.infoc) and scores.infom == pytest.approx(0.0, abs=1e-6)  # one latent, two equal sources


def test_constant_and_narrow_latents_are_pruned_before_scores_are_taken():
    idle = np.full((5000, 2), 3.0)
    scores = infomec(GRID, np.concatenate([GRID, idle], 1), discrete=True)
    np.testing.assert_array_equal(scores.active, [True] * 4 + [False] * 2)
    np.testing.assert_allclose([scores.infom, scores.infoc], [1, 1], atol=1e-5)
    small = GRID[::10, :2]  # not the whole grid: continuous estimates are slow
    latents = small + RNG.uniform(-0.2, 0.2, small.shape)
    narrow = 0.04 * latents[:, :1]  # as good as the first, but its range is a twenty-fifth
    scores = infomec(small, np.concatenate([latents, narrow], 1), discrete=False)
    np.testing.assert_array_equal(scores.active, [True, True, False])
    assert scores.infom > 0.9 and scores.infoc > 0.9 and scores.nmi[0, 2] > 0.9
    nothing = infomec(small, np.zeros((500, 3)), discrete=True)
    assert nothing.infom == nothing.infoc == 0.0 and nothing.infoe == pytest.approx(0.0, abs=1e-4)


def test_continuous_information_is_that_of_the_density_by_quadrature():
    """A uniform source of 4 values seen through Gaussian noise: I = h(mixture) - h(noise); scale does not matter."""
    source = np.tile(np.arange(4), 750)
    noise = RNG.standard_normal((3000, 2)) * [0.3, 1.0]
    found = nmi_matrix(source[:, None], (source[:, None] + noise) * [1e3, 1e-3], discrete=False)
    x = np.linspace(-8, 11, 20_001)
    for j, std in enumerate((0.3, 1.0)):
        density = np.exp(-0.5 * ((x[:, None] - np.arange(4)) / std)**2).mean(1) / (std * np.sqrt(2 * np.pi))
        entropy = -(density * np.log(np.maximum(density, 1e-300))).sum() * (x[1] - x[0])
        information = entropy - 0.5 * np.log(2 * np.pi * np.e * std**2)
        assert found[0, j] == pytest.approx(information / np.log(4), abs=0.03)


def test_linear_sources_of_continuous_latents_are_explicit_though_rotated():
    pair = np.tile(np.indices((2, 2)).reshape(2, -1).T, (150, 1))
    turned = (2 * pair - 1 + RNG.uniform(-0.1, 0.1, pair.shape)) @ np.array([[1, 1], [1, -1]])
    scores = infomec(pair, turned, discrete=False)
    assert scores.infoe > 0.99 and scores.infom < 0.2 and scores.infoc < 0.2


def test_bad_tables_are_told_what_to_do():
    with pytest.raises(ValueError, match="same rows"):
        infomec(GRID, GRID[1:], discrete=True)
    with pytest.raises(ValueError, match="2 factors"):
        infomec(GRID[:, :1], GRID, discrete=True)
    with pytest.raises(ValueError, match=r"\[1\] have one value only"):
        nmi_matrix(GRID * [1, 0, 1, 1], GRID, discrete=True)
    with pytest.raises(ValueError, match="not all finite"):
        infomec(GRID, np.where(GRID == 0, np.nan, GRID), discrete=False)
