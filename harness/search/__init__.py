"""Which candidate next, and what was learned.

`space` and `axes` say what may be tried, `seeds` where to begin, `lessons` what failures rule out, `surrogate` and
`chooser` which candidate is worth a launch, `study` keeps it all in Optuna's storage, `audit` holds that against a run
folder; `study`, `storage` and `audit` are the files that know Optuna.
"""

from harness.search.audit import journal_fault
from harness.search.axes import ALLOWABLE, Aim, Demand, aim_of, demand_of, memory_need, refuse_unfit, space_for
from harness.search.chooser import WARM
from harness.search.seeds import presets_of, seeds_for
from harness.search.space import Axis, Cost, MemoryNeed, Seed, Space, key_of
from harness.search.storage import refuse_storage
from harness.search.study import Candidate, Enough, Exhausted, Search

__all__ = [
    "ALLOWABLE",
    "WARM",
    "Aim",
    "Axis",
    "Candidate",
    "Cost",
    "Demand",
    "Enough",
    "Exhausted",
    "MemoryNeed",
    "Search",
    "Seed",
    "Space",
    "aim_of",
    "demand_of",
    "journal_fault",
    "key_of",
    "memory_need",
    "presets_of",
    "refuse_storage",
    "refuse_unfit",
    "seeds_for",
    "space_for",
]
