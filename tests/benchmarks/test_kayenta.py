"""Our Kayenta against numbers of Kayenta itself: its issues and its own suite (`ClassifierSuite.scala`)."""

import numpy as np
import pytest

from benchmarks.judges.peers.kayenta import Label, classify, is_high

ONES = [1.0] * 10
WIDE = [1.0, 100.0, 4.0, 101.0, 5.0, 102.0, 6.0, 103.0, 7.0, 104.0, 8.0, 105.0, 9.0, 106.0, 17.0]
NARROW = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 17.0, 17.1, 17.2, 17.3, 17.4, 17.5, 17.6, 17.7]


@pytest.mark.parametrize(
    ("control", "canary", "label"),
    [
        pytest.param(ONES, [100.0] * 7 + [1.0] * 3, Label.PASS, id="seven of ten a hundredfold (#6278)"),
        pytest.param(ONES, [100.0] * 8 + [1.0] * 2, Label.HIGH, id="eight of ten a hundredfold (#6278)"),
        pytest.param([0.0] * 6, [0.0, 1.0, 2.0, 1.0, 0.0, 0.0], Label.PASS, id="sparse errors (#426)"),
        pytest.param([0.0] * 5, [1.0, 4.0, 2.0, 3.0, 1.0], Label.HIGH, id="control never failed (#799)"),
        pytest.param(WIDE, NARROW, Label.PASS, id="variance changed (#780)"),
    ],
)
def test_label_is_the_one_that_kayenta_gives(control, canary, label):
    assert classify(np.array(canary), np.array(control)).label is label


def test_interval_is_kayentas_own_to_the_last_digit():
    found = classify(np.array([100.0] * 7 + [1.0] * 3), np.array(ONES))
    assert found.low == pytest.approx(6.825022991538781e-05, rel=1e-9)
    assert found.high == pytest.approx(99.0)
    assert found.estimate == pytest.approx(98.99992904170193, rel=1e-12)
    assert found.effect == pytest.approx(70.3)


def test_interval_when_the_variance_changed():
    found = classify(np.array(NARROW), np.array(WIDE))
    assert (round(found.low, 1), round(found.high, 1)) == (-88.4, 8.7)


def test_critical_metric_that_is_high_is_critical():
    assert classify(np.array([1.0, 4.0, 2.0, 3.0, 1.0]), np.zeros(5), critical=True).critical


def test_metric_without_data_has_no_label_but_that():
    assert classify(np.full(5, np.nan), np.ones(5)).label is Label.NODATA


def test_many_at_once_get_the_label_that_each_gets_alone():
    random = np.random.default_rng(7)
    canary = random.poisson(random.uniform(0.2, 6.0, size=(120, 1)), size=(120, 30)) / 10
    control = random.poisson(1.5, size=(120, 30)) / 10
    canary[random.random(canary.shape) < 0.2] = np.nan
    control[random.random(control.shape) < 0.1] = np.nan
    alone = [classify(x, y, direction="increase").label is Label.HIGH for x, y in zip(canary, control, strict=True)]
    assert 20 < sum(alone) < 100
    assert is_high(canary, control).tolist() == alone


@pytest.mark.parametrize(
    ("slower", "points", "share"), [(1.0, 30, 0.0), (1.1, 50, 0.5), (1.2, 30, 0.93), (1.5, 10, 0.97)]
)
def test_detection_is_as_measured_with_another_reimplementation(slower, points, share):
    """The table of reference/judges.md 3.7: lognormal latencies of sigma 0.15."""
    random = np.random.default_rng(11)
    canary = 150 * slower * np.exp(0.15 * random.standard_normal((600, points)))
    control = 150 * np.exp(0.15 * random.standard_normal((600, points)))
    assert is_high(canary, control).mean() == pytest.approx(share, abs=0.07)
