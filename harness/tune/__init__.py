"""`harness tune`: the baseline, then candidates, then a defended winner or the defaults; everything kept as it comes.

`plan` says what is to be done and `world` where; `resolution` refuses what no figure can come of; `session` begins a
study or goes on with one, if its files are `sound`. `study` is the order of things: `defaults` is trial 0, `candidates`
the search, each of them one of `attempts`, and `trials` what comes of it. `known` is what is on disk so far, `budget`
what there is time for, by what `spending` says that launches cost. `objectives` says what better means, `launches`
measures one launch, `contest` gives up who cannot win. `workers` starts several processes that search at the same time,
each a `worker`. `sharing` says which of several hosts defends; `defence` measures the best again by the `rules`,
`quality` compares answers, `crown` ends it, and `placing` says what becomes of an earlier preset.
"""

from harness.tune.crown import winner
from harness.tune.objectives import Objective, objectives_named, refuse_unmeasurable
from harness.tune.placing import place_of
from harness.tune.plan import PLAN_VERSION, SIMULATED, Plan, defaults_suffix, preset_file, role_of
from harness.tune.resolution import refuse_unresolvable
from harness.tune.rules import judged_line
from harness.tune.session import resume, run
from harness.tune.spending import repeats_for
from harness.tune.study import Study
from harness.tune.trials import failed_trial, front_line
from harness.tune.workers import cards
from harness.tune.world import World

__all__ = [
    "PLAN_VERSION",
    "SIMULATED",
    "Objective",
    "Plan",
    "Study",
    "World",
    "cards",
    "defaults_suffix",
    "failed_trial",
    "front_line",
    "judged_line",
    "objectives_named",
    "place_of",
    "preset_file",
    "refuse_unmeasurable",
    "refuse_unresolvable",
    "repeats_for",
    "resume",
    "role_of",
    "run",
    "winner",
]
