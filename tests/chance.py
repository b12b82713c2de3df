"""Tests of laws: chi-squared at a stated rate of false alarms, with fixed seeds."""

import numpy as np
import scipy.stats

FALSE_ALARM = 1e-6


def assert_law(draws, law):
    """The draws (integers) follow `law`: impossible symbols never occur, and the chi-squared test does not object."""
    law = np.asarray(law, np.float64)
    count = np.bincount(np.asarray(draws).ravel(), minlength=len(law))
    possible = law > 1e-12
    assert count[~possible].sum() == 0, f"impossible symbols drawn: {np.flatnonzero(count * ~possible)}"
    if possible.sum() > 1:
        expected = law[possible] / law[possible].sum() * count.sum()
        assert scipy.stats.chisquare(count[possible], expected).pvalue > FALSE_ALARM, (count / count.sum(), law)
