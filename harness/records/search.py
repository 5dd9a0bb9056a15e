"""What a search tried, what it learned, and the settings that it ended with."""

from enum import StrEnum

from harness.records.base import Flags, FlagValue, Record
from harness.records.cells import Estimate


class Outcome(StrEnum):
    """How a trial ended."""

    MEASURED = "measured"
    INVALID = "invalid"
    OUT_OF_MEMORY = "out of memory"
    CONTEXT_TOO_LONG = "context too long"
    BAD_FLAG = "bad flag"
    CRASHED = "crashed"
    HUNG = "hung"
    STOPPED = "stopped"
    """Its launch was ended before all loads were measured, since it could not win any more."""


class Ladder(Record, frozen=True, kw_only=True):
    """The values of one flag that a search may try."""

    flag: str
    steps: tuple[FlagValue | None, ...]
    """None: the flag is not sent, which leaves it to vLLM."""


class Asked(Record, frozen=True, kw_only=True):
    """What a search was asked for, and among what it looked."""

    objectives: dict[str, str]
    """What is to be made better, by its name, in words."""
    users: tuple[int, ...]
    repeats: int
    slos: tuple[str, ...] = ()
    trials: int | None = None
    """Candidates besides the baseline. None: as many as the budget allows."""
    budget_s: float | None = None
    """Of the whole study. None: it was given no time limit."""
    is_defended: bool = True
    ladders: tuple[Ladder, ...] = ()
    """Empty: the search had not begun."""


class Trial(Record, frozen=True, kw_only=True):
    """One candidate of a search: what was asked, what came of it."""

    number: int
    flags: Flags
    outcome: Outcome
    objective: Estimate | None = None
    """Ratio to the baseline, of several workers' candidates to the control; over 1 is better. None: no figures, or this
    is the baseline itself."""
    constraints: dict[str, float] = {}
    """By how much it was infeasible; over 0 is infeasible."""
    fits_tokens: int | None = None
    """The longest context that the engine said would fit. None: it said nothing of the kind."""
    reason: str = ""
    log: str = ""
    """Engine log, relative to the run folder."""
    launch_s: float | None = None
    """Seconds from start to ready. None: it never was."""
    wall_s: float = 0.0
    origin: str = ""
    """Where the candidate comes from: "preset of the h100", "memory plan", …; empty for the baseline."""
    objectives: dict[str, Estimate] = {}
    """The ratio to the baseline of each objective that all loads are known of; `objective` is their mean."""
    stopped: str = ""
    """Why its launch was ended early; what was measured until then counts. Empty: it was measured to the end."""
    partial: Estimate | None = None
    """Of a stopped trial: the ratio over the loads that were measured. None: it was not stopped."""
    died_under_users: int | None = None
    """The load under which the engine died, after a good start. None: it lived, or never started."""
    level_s: dict[str, float] = {}
    """Seconds that one repeat of each load took, warm-up included, by the load's name."""
    retries: int = 0
    """Launches before this one that failed for what others did: a stranger held memory, a port was taken."""
    kept: dict[str, Estimate] = {}
    """Share of the requests that kept each limit of the SLO, at the objective's load."""
    worker: int | None = None
    """Which of several workers measured it. None: there was one."""
    is_control: bool = False
    """The baseline's flags once more, measured beside other workers' candidates, whose ratios are to it."""

    @property
    def is_candidate(self) -> bool:
        """Neither the baseline nor its like among the workers."""
        return self.number > 0 and not self.is_control


class PresetFigure(Record, frozen=True, kw_only=True):
    """What the settings of a preset gave at one load, and against the baseline."""

    scenario: str
    users: int
    """Of a closed loop; 0 for the others."""
    rate_per_s: float | None = None
    """The level of an open loop, in requests per second. None: a closed loop or a replay."""
    metric: str
    """`output_tok_s`, `ttft_s.p50`, …"""
    value: Estimate | None = None
    """None: too few valid repeats for an interval."""
    ratio: Estimate | None = None
    """Over 1 is faster than the baseline. None: it cannot be had."""


class Preset(Record, frozen=True, kw_only=True):
    """Settings that won a search, and where that is known from: presets/<gpu>/<model>.toml."""

    gpu: str
    model: str
    flags: Flags
    is_default: bool
    """True: nothing beat vLLM's own defaults; `flags` is then what these need to start, mostly nothing."""
    objective: str
    ratio: Estimate | None = None
    """The winner against the baseline. None: there was no winner."""
    vllm_version: str
    gpu_title: str
    run: str
    created_utc: str
    vllm_versions: str = ""
    """The versions of vLLM that it holds for, as in ">=0.32,<0.33". Empty: those of `vllm_version`'s own minor one."""
    driver: str = ""
    """Of the card. Empty: not known, or no card."""
    harness_version: str = ""
    """Empty: not known, as in presets of early versions."""
    precision: str = ""
    """Of the weights that were measured. Empty: not known."""
    slos: tuple[str, ...] = ()
    """The limits that the search kept, as they were asked for."""
    is_synthetic: bool = False
    """The weights were random ones of the model's shape."""
    figures: tuple[PresetFigure, ...] = ()
    """By load. Empty: not known, as in presets of early versions."""
    is_simulated: bool = False
    """No engine was launched: a simulation found them."""
    is_defended: bool = False
    """The winner was measured again, against the baseline and on other prompts than it was chosen by."""


class Judged(Record, frozen=True, kw_only=True):
    """Settings that were measured again after the search, against others that took turns with them."""

    name: str
    """"trial 3", "without max-num-seqs"."""
    flags: Flags
    ratio: Estimate | None
    """To what they took turns with; its interval allows for their number. None: no figures, `reason` says why."""
    ratios: dict[str, Estimate] = {}
    """The same for each objective, where there are several."""
    launches: int
    """That gave figures."""
    agreement: Estimate | None = None
    """Share of the greedy answers that are the baseline's. None: nothing differs that could change an answer, or none
    could be asked."""
    is_refused: bool = False
    """Too few of its answers are the baseline's, or it failed."""
    reason: str = ""


class Defence(Record, frozen=True, kw_only=True):
    """What came of measuring the best candidates again: the finals, and then the winner without each of its flags."""

    round: int
    """From 1. A study that was resumed with more trials is defended anew."""
    trials: int
    """So many had been tried when it began."""
    blocks: int
    """Launches of each side in the finals; where a budget has time left there are more."""
    ablated: int = 0
    """Flags for whose ablation time was kept during the finals."""
    looks: int = 1
    """How often the finals may be judged, for which their intervals allow. 2: time was kept for an ablation, and where
    nobody wins, or it is too short to tell anything, the finals go on with it."""
    extended: tuple[str, ...] = ()
    """Stages that went on after they were judged, with the time that the next one did not need."""
    finalists: tuple[int, ...]
    """Numbers of the trials; none where no candidate looked better than the baseline."""
    finals: tuple[Judged, ...] = ()
    """Those of earlier rounds too, where all finalists of a round were refused."""
    refused: tuple[int, ...] = ()
    """Finalists of earlier rounds that were refused."""
    winner: int | None = None
    """The trial that won. None: none did, or the finals are still going on."""
    ablation_blocks: int = 0
    """Launches of each side in the ablation; 0: there was none."""
    removals: tuple[Judged, ...] = ()
    """The winner without one of its flags, against the winner."""
    confirmation: Judged | None = None
    """The winner without all flags that seemed to do nothing, against the winner. None: at most one seemed so."""
    dropped: tuple[str, ...] = ()
    """Flags that were left out in the end."""
    flags: Flags = {}
    """What the study ends with."""
    is_done: bool = False
    reason: str = ""
    """Why it ended as it did, in a sentence."""


class DefenceLaunch(Record, frozen=True, kw_only=True):
    """One launch of the defence, whole; a line of defence.jsonl."""

    stage: str
    """"finals", "ablation" or "confirmation"."""
    round: int
    role: str
    """Of its cells."""
    block: int
    flags: Flags
    outcome: Outcome
    reason: str = ""
    log: str = ""
    launch_s: float | None = None
    """Seconds from start to ready. None: it never was."""
    wall_s: float = 0.0
    level_s: dict[str, float] = {}
    """As in `Trial`."""
    retries: int = 0
