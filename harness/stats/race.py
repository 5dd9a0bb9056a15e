"""Whether a candidate may be given up before all of its loads are measured."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LAUNCH_SPREAD = 0.02
"""Standard deviation of the logarithm of the ratio of two launches of the same settings, which repeats within one of
them cannot show. Two launches were seen to differ by up to this much (see `verdict.NOISE_RATIO`)."""
HEADROOM = 0.1
"""By so much more (on the logarithm) than anything seen there a candidate is trusted to win at a load not measured."""
MAX_WRONG_STOPS = 0.01
"""Chance, at each look, to give up a candidate that is as good as the best."""


def is_behind(differences: Sequence[Sequence[float]], *, hopes: Sequence[float]) -> bool:
    """Whether a candidate is surely worse than the best so far, even if all goes well at the loads that are left.

    One-sided: the mean over all loads of (candidate's logarithm − best's), of paired repeats on the same prompts, plus
    t times its standard error, is under 0. The error is of the repeats and of the launch, which moves all loads
    together; t has Satterthwaite's degrees of freedom, the launch's part being known. Of 2000 simulated
    candidates exactly as good as the best (3 repeats that spread by 2%, looked at after each load) so many were given
    up: with launches that spread by 1% each 0.4% under one load and 0.05% under five, with 1.4% (`LAUNCH_SPREAD` of the
    ratio) 1.1% and 1.1%, with 2% 3.1% and 4.2%.
    Args:     differences: by load that was measured, one for each pair; over 0 is better. hopes: by load that is left,
              the difference that would be a surprise.
    Returns:  False where a load has fewer than two pairs: nothing is known of its spread.
    """
    if not differences or any(len(pairs) < 2 for pairs in differences):
        return False
    loads = len(differences) + len(hopes)
    centre = (sum(float(np.mean(pairs)) for pairs in differences) + sum(hopes)) / loads
    parts = [float(np.var(pairs, ddof=1)) / len(pairs) / loads**2 for pairs in differences]
    launch = (LAUNCH_SPREAD * len(differences) / loads) ** 2
    whole = sum(parts) + launch
    shaky = sum(part**2 / (len(pairs) - 1) for part, pairs in zip(parts, differences, strict=True))
    freedom = whole**2 / shaky if shaky > 0 else math.inf
    return centre + float(stats.t.ppf(1 - MAX_WRONG_STOPS, min(freedom, 1e6))) * math.sqrt(whole) < 0


def hope(seen: Sequence[float]) -> float:
    """The difference from the best that would be a surprise, after these were seen at a load."""
    return max([*seen, 0.0]) + HEADROOM
