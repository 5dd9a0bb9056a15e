"""What a study is to do, and how its launches are called."""

from pathlib import Path
from typing import Final

import msgspec

from harness import presets, specs
from harness.engines.flags import words
from harness.errors import UsageError
from harness.records import Flags, GpuProfile, LaunchSpec, Level, ModelEntry, ModelFiles, Record, Scenario
from harness.store import RunFolder
from harness.tune.objectives import Objective, objectives_named

PLAN_VERSION: Final = 2
"""Of plan.json and study.journal. Raise it when a study begun before cannot go on.

1  three ladders
2  spaces made for card and model, several objectives, a defence
"""
SIMULATED: Final = "simulated"


class Plan(Record, frozen=True, kw_only=True):
    """All that a study needs to know; made once by the command line."""

    version: int = PLAN_VERSION
    profile: GpuProfile
    model: ModelEntry
    files: ModelFiles
    scenario: Scenario
    users: tuple[int, ...]
    repeats: int
    objective: str
    """Names with commas, as the command line takes them."""
    slos: tuple[str, ...] = ()
    trials: int | None
    """Candidates besides the baseline. None: as many as the budget allows."""
    budget_s: float | None
    """Of the whole study. None: as many trials as asked, however long that takes."""
    allowed: tuple[str, ...] = ()
    """Tiers of settings that change more than speed, and are searched too."""
    is_defended: bool = True
    """The winner is measured again before it is believed."""
    engine: str = "vllm"
    vllm_python: str | None
    is_card_shared: bool = False
    """Other programs hold a part of the card, as a desktop does."""
    seed: int
    workers: int = 1
    """Processes that search at the same time, one for each card."""
    storage: str = ""
    """URL of the database that several hosts share, without its password. Empty: the run folder keeps the search."""
    study: str = "harness"
    """Its name in the storage."""
    host: str = ""
    """This host and a random number, which tell this run from all others in the storage. Empty: there is none."""

    @property
    def is_simulated(self) -> bool:
        """No engine is launched."""
        return self.engine == SIMULATED

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Raises: UsageError."""
        return objectives_named(self.objective, self.users, slos=self.slos)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Of the ladder, ascending."""
        return tuple(Level(users=count) for count in sorted(self.users))


# ---------------------------------------------------------------- on disk


def write_plan(plan: Plan, folder: RunFolder) -> None:
    """For `read_plan`."""
    draft = folder.path / "plan.json.tmp"
    draft.write_bytes(msgspec.json.encode(plan))
    draft.replace(folder.path / "plan.json")


def read_plan(folder: RunFolder) -> Plan:
    """Raises: UsageError where there is no plan, or one of another version."""
    path = folder.path / "plan.json"
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=dict[str, object]).get("version", 1)
        if not isinstance(version, int) or version == PLAN_VERSION:
            return msgspec.json.decode(raw, type=Plan)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{folder.id} cannot be resumed: {error}", hint="name a run of `harness tune`: ls results/*/plan.json"
        ) from error
    raise UsageError(
        f"{folder.id} cannot be resumed: its study is of version {version}, this harness goes on with {PLAN_VERSION}",
        hint="go on with the harness that began it, or start a new search; its report can still be made",
    )


# ---------------------------------------------------------------- what is launched


def role_of(number: int) -> str:
    """What the cells of a trial are called."""
    return "baseline" if number == 0 else f"trial {number}"


def defaults_suffix(profile: GpuProfile) -> str:
    """Behind the title of a vLLM without tuned flags: what the profile passes to every launch is no default."""
    given = " ".join(words(profile.vllm_flags))
    return f", defaults with {given}" if given else ", defaults"


def spec_for(plan: Plan, flags: Flags) -> LaunchSpec:
    """The study's engine with these flags."""
    if not plan.is_simulated:
        return specs.vllm_spec(plan.files, plan.profile, flags=flags, python=plan.vllm_python)
    return specs.simulated_spec(plan.model, plan.profile, flags=flags, seed=plan.seed)


def preset_file(results: Path, *, gpu: str, model: str, is_simulated: bool) -> Path:
    """Where a study's preset goes; a simulated one where no command that launches anything looks for presets."""
    return presets.preset_path(results / SIMULATED if is_simulated else results, gpu=gpu, model=model)
