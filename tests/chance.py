"""Statistical assertions: chi-squared and Student's t at a stated false-alarm rate, with fixed seeds."""

import numpy as np
import scipy.stats

FALSE_ALARM = 1e-6
RARE = 5.0  # chi-squared holds for cells with at least this expected count; rarer cells are merged


def assert_law(draws, law):
    """Assert that the draws (integers) follow `law`: no impossible token occurs, and the chi-squared test passes."""
    law = np.asarray(law, np.float64)
    count = np.bincount(np.asarray(draws).ravel(), minlength=len(law))
    possible = law > 1e-12
    assert count[~possible].sum() == 0, f"impossible tokens drawn: {np.flatnonzero(count * ~possible)}"
    expected, found = law[possible] / law[possible].sum() * count.sum(), count[possible]
    order = np.argsort(expected)
    expected, found = expected[order], found[order]
    rare = min(max(int((np.cumsum(expected) < RARE).sum()), int((expected < RARE).sum()) - 1), len(expected) - 1)
    expected, found = (np.append(a[: rare + 1].sum(), a[rare + 1 :]) for a in (expected, found))
    if len(expected) > 1:
        assert scipy.stats.chisquare(found, expected).pvalue > FALSE_ALARM, (count / count.sum(), law)


def assert_mean(values, expected):
    """Assert by Student's t that independent values have this mean. `values` is [N] or [N, ...], each column tested by itself."""
    values = np.asarray(values, np.float64)
    gap, error = values.mean(axis=0) - expected, values.std(axis=0, ddof=1) / np.sqrt(len(values))
    worst = np.max(np.abs(gap) / error)
    assert 2 * scipy.stats.t.sf(worst, len(values) - 1) > FALSE_ALARM, (values.mean(axis=0), expected, error)
