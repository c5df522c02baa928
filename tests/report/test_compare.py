"""Known answers of the paired test: its level with seed noise, its power, and its p-values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from peftbench.report.compare import ALPHA, Comparison, Gain, corrected, paired

ITEMS = 872


def answers(rng, seeds, shift, seed_noise, items=ITEMS, system_noise=0.0):
    """Correct (1) or not of two systems on items of unequal difficulty, each float of shape (seeds, items)."""
    difficulty = rng.normal(3.9, 3.0, items)

    def system(offset):
        own = rng.normal(0, system_noise, items) if system_noise else 0.0
        logits = difficulty + own + offset + rng.normal(0, seed_noise, (seeds, 1)) + rng.normal(0, 1, (seeds, items))
        return (rng.random((seeds, items)) < 1 / (1 + np.exp(-logits))).astype(float)

    return system(0.0), system(shift)


@pytest.mark.parametrize(("seeds", "seed_noise"), [(5, 0.3), (5, 0.0), (3, 0.3), (2, 0.8), (10, 0.8)])
def test_identical_systems_tie_in_94_percent_of_1000(seeds, seed_noise):
    rng = np.random.default_rng(11)
    different = 0
    for _ in range(1000):
        one, other = answers(rng, seeds, 0.0, seed_noise)
        different += paired(other - one, draws=500, rng=rng).p < ALPHA
    assert different <= 60


def test_level_holds_when_the_systems_differ_item_by_item():
    rng = np.random.default_rng(12)
    tests = [paired(np.subtract(*answers(rng, 5, 0.0, 0.1, system_noise=2.0)), draws=500, rng=rng) for _ in range(500)]
    assert np.mean([test.p < ALPHA for test in tests]) <= 0.06
    assert np.mean([test.low <= 0 <= test.high for test in tests]) >= 0.94


def test_a_gap_of_three_points_is_found_with_five_seeds():
    rng = np.random.default_rng(13)
    tests, accuracy = [], []
    for _ in range(200):
        one, other = answers(rng, 5, 0.56, 0.05)
        tests.append(paired(other - one, draws=500, rng=rng))
        accuracy.append(other.mean() - one.mean())
    assert np.mean(accuracy) == pytest.approx(0.03, abs=0.003)
    assert np.mean([test.p < ALPHA and test.estimate > 0 for test in tests]) > 0.85


def test_a_gap_is_found_as_often_as_the_test_itself_predicts():
    """Each test's half interval says how often a gap of three points would be found; that often it is found."""
    rng = np.random.default_rng(14)
    gaps = [answers(rng, 5, 0.56, 0.15) for _ in range(300)]
    estimates = np.array([float((other - one).mean()) for one, other in gaps])
    tests = [paired(other - one, draws=500, rng=rng) for one, other in gaps]
    halves = np.array([(test.high - test.low) / 2 for test in tests])
    predicted = stats.norm.sf(halves, loc=estimates.mean(), scale=estimates.std(ddof=1)).mean()
    found = np.mean([test.p < ALPHA and test.estimate > 0 for test in tests])
    assert estimates.mean() == pytest.approx(0.03, abs=0.003)
    assert 0.3 < predicted < 0.98, "where neither always nor never would do"
    assert found == pytest.approx(predicted, abs=3 * np.sqrt(predicted * (1 - predicted) / len(tests)))


def test_without_seed_differences_it_is_the_sign_flip_test_of_scipy():
    gains = np.random.default_rng(3).normal(0.25, 1, 40)
    exact = stats.permutation_test((gains,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0).pvalue
    # Every seed answers alike: no seed noise, no noise of single answers.
    assert paired(np.stack([gains, gains, gains])).p == pytest.approx(exact, abs=0.01)


def test_without_item_differences_it_is_the_t_test_over_seeds():
    per_seed = np.array([0.02, 0.05, 0.03, 0.04])
    gains = np.repeat(per_seed[:, None], 1000, axis=1) + np.random.default_rng(0).normal(0, 1e-6, (4, 1000))
    mean, sd = per_seed.mean(), per_seed.std(ddof=1)
    noise = np.sqrt(sd**2 / 4 + mean**2 / 1000)
    assert paired(gains).p == pytest.approx(2 * stats.t.sf(mean / noise, 3), rel=0.25)


def test_seeds_that_agree_by_luck_prove_nothing():
    gains = np.zeros((2, 50))
    gains[0, :2] = gains[1, 2:4] = 1  # + 4 points with both seeds, on different items
    assert paired(gains).p > 0.2


def test_no_gain_is_a_p_of_one_and_the_result_repeats():
    assert paired(np.zeros((3, 10))).p == 1.0
    gains = np.random.default_rng(1).integers(-1, 2, (3, 50)).astype(float)
    assert paired(gains) == paired(gains)


@pytest.mark.parametrize("shape", [(1, 10), (3, 0)])
def test_too_little_is_refused(shape):
    with pytest.raises(ValueError, match="two seeds and one item"):
        paired(np.zeros(shape))


def test_holm_and_words():
    p = [0.001, 0.04, 0.03, 0.5]
    gains = [Gain(sign, 0, 0, value) for sign, value in zip([1, -1, 1, 1], p, strict=True)]
    table = [Comparison("untested", p=gain.p, gain=gain) for gain in gains]
    table.insert(1, Comparison("baseline"))
    result = corrected(table)
    assert [one.verdict for one in result] == ["better", "baseline", "tie", "tie", "tie"]
    assert [one.p_holm for one in result if one.p_holm] == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert [one.verdict for one in corrected(table[2:3])] == ["worse"]
    assert corrected([]) == []
