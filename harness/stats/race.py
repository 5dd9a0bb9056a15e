"""Whether a candidate may be given up before all of its loads are measured."""

import math
from collections.abc import Sequence

import numpy as np

from harness.stats.distributions import student_t

LAUNCH_SPREAD = 0.02
"""Standard deviation of the logarithm of the ratio of two launches of the same settings, which repeats within one of
them cannot show. Two launches were seen to differ by up to this much (see `verdict.NOISE_RATIO`)."""
HEADROOM = 0.1
"""By so much more (on the logarithm) than anything seen there a candidate is trusted to win at a load not measured."""
MAX_WRONG_STOPS = 0.01
"""Chance, at each look, to give up a candidate that is as good as all others."""


def is_behind(differences: Sequence[Sequence[float]], *, hopes: Sequence[float], rivals: int = 1) -> bool:
    """Whether a candidate is surely worse than the best so far, even if all goes well at the loads that are left.

    One-sided: the mean over all loads of (candidate's logarithm − best's), of paired repeats on the same prompts, plus
    t times its standard error, is under 0. The error is of the repeats and of the launch, which moves all loads
    together; t has Satterthwaite's degrees of freedom, the launch's part being known. The best of several was mostly
    lucky, so the chance is shared among all who could have been it (Bonferroni). Of 3000 simulated candidates just as
    good as 1, 5, 10 and 20 rivals (3 repeats that spread by 2%, compared at the one load that the objective is about)
    so many were given up: with launches that spread by 1% each 0.4, 0.1, 0.3 and 0.1%, with 1.4% (`LAUNCH_SPREAD` of
    the ratio) 1.1, 1.3, 1.3 and 1.6%, with 2% 2.7, 4.9, 4.7 and 5.7%. With more loads to come, and hope for them, it
    was none of 1500 up to 1.4% and at most 0.7% with 2%.
    Args:     differences: by load that was measured, one for each pair; over 0 is better. hopes: by load that is left,
              the difference that would be a surprise. rivals: among whom the best was found.
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
    return centre + student_t(1 - MAX_WRONG_STOPS / rivals, min(freedom, 1e6)) * math.sqrt(whole) < 0


def hope(seen: Sequence[float]) -> float:
    """The difference from the best that would be a surprise, after these were seen at a load."""
    return max([*seen, 0.0]) + HEADROOM
