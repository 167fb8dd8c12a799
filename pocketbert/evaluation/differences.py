"""What a difference between two models is worth: from redrawn scores to a verdict in words.

    holm(p_values)              p-values of several models against one baseline, corrected for their number
    p_of_draws(draws)           how often chance alone would show such a difference, from the bootstrap
    detectable(draws)           the smallest true difference that so many texts would most likely have shown
    verdict(low, high, p)       "worse", "better", "same within 0.4 points" or "these texts cannot tell"
"""

import math

import numpy as np

LEVEL = 0.05                # of the tests; intervals hold 95 %
SAME = 0.01                 # macro-F1: models whose interval lies within +- 1 point are called the same
POWER_FACTOR = 1.960 + 0.842    # normal quantiles of 97.5 % (two-sided test at 5 %) and of 80 % (power)


def interval(draws):
    """(low, high): the 95 % percentile interval of redrawn values (draws,)."""
    low, high = np.quantile(draws, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def p_of_draws(draws):
    """Two-sided p-value that a difference is 0, from its redrawn values (draws,).

        p = 2 min(share of draws <= 0, share of draws >= 0),    at most 1

    Both shares count one draw more than there were, so that p is never 0 (Davison and Hinkley 1997, section 4.2).
    p < 0.05 where the 95 % interval leaves out 0.
    """
    draws = np.asarray(draws)
    below = (1 + np.sum(draws <= 0)) / (1 + len(draws))
    above = (1 + np.sum(draws >= 0)) / (1 + len(draws))
    return float(min(1, 2 * min(below, above)))


def holm(p_values):
    """p-values that stay below 5 % together: {name: p} -> {name: corrected p} (Holm 1979).

    With m models the smallest p is multiplied by m, the next one by m - 1 ...; none may be smaller than the one before
    it. The chance that any of m models that equal the baseline is called different is then at most 5 %, while without
    a correction it is 1 - 0.95^m: 40 % for ten models.
    """
    corrected = {}
    largest = 0.0
    for i, name in enumerate(sorted(p_values, key=p_values.get)):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def detectable(draws):
    """The smallest true difference that a test at 5 % finds in 80 % of samples of this size.

        2.8 * standard error,    the standard error from the redrawn differences (draws,)

    A difference below it may be there and still not show; more texts make it smaller, by the square root.
    """
    return float(POWER_FACTOR * np.std(draws))


def verdict(low, high, p, same=SAME):
    """The comparison with the baseline in words.

    low, high: 95 % interval of the difference in macro-F1 (0.01 is one point)    p: its p-value, corrected by `holm`
    """
    if p < LEVEL and high < 0:
        return "worse"
    if p < LEVEL and low > 0:
        return "better"
    widest = max(abs(low), abs(high))
    if widest <= same:
        return f"same within {max(0.1, math.ceil(1000 * widest - 1e-9) / 10):.1f} points"
    return "these texts cannot tell"
