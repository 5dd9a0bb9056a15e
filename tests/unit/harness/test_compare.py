"""The order of launches, the blocks that a precision asks for, and what is judged; no engine is started."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import compare
from harness.baseline import Settings
from harness.errors import EngineCrashed
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    Defence,
    DefenceLaunch,
    EngineFacts,
    Estimate,
    LaunchSpec,
    Level,
    Outcome,
    RequestRecord,
    RunState,
    Scenario,
    Target,
    Tier,
    Trial,
    Verdict,
    Workload,
)
from harness.store import RunFolder

SCENARIO = Scenario(
    name="concurrent",
    title="",
    workload=Workload(prompt_words=8, output_tokens=8, is_streamed=True),
    load=ClosedLoop(users=(1, 5), requests_per_user=1, min_s=1, max_s=9),
)
TARGET = Target(name="t", scenario="concurrent", users=5, metric="output_tok_s", done_ratio=1.5, target_ratio=2.0)
PLAN = compare.Plan(
    gpu="cpu",
    is_cpu=True,
    model="smollm2-135m",
    tier=Tier.AS_RUN,
    baseline=compare.Side(spec=LaunchSpec(engine="ollama", model="m", precision="q4_1")),
    candidate=compare.Side(spec=LaunchSpec(engine="vllm", model="m", precision="bf16"), title_suffix=", defaults"),
    tuned_most=None,
    loads=(SCENARIO,),
    blocks=2,
    repeats=2,
    precision_ratio=None,
    budget_s=1800.0,
    preset=None,
    tuned_in=None,
    seed=1,
    targets=(TARGET,),
)


class Engines:
    """Stands in for engines: each cell is as fast as `rate_tok_s` says of its role, level and block."""

    def __init__(self, rate_tok_s: Callable[[str, int, int], float], *, prompt_tokens: dict[str, int] | None = None):
        self.rate_tok_s, self.prompt_tokens = rate_tok_s, prompt_tokens or {}
        self.launches: list[tuple[int, str]] = []
        self.levels: list[tuple[Level, ...]] = []
        self.now_s = 0.0
        self.launch_s = 10.0

    def measure(
        self,
        part: Any,
        work: Sequence[Any],
        *,
        recording: Any,
        progress: Any,
        is_spoiled: Callable[[Cell], bool] = lambda _: False,
    ) -> list[Cell]:
        self.launches.append((part.block, part.role))
        self.levels.append(tuple(dict.fromkeys(one.level for one in work)))
        self.now_s += self.launch_s
        recording.add_engine(
            EngineFacts(
                role=part.role, engine=part.spec.engine, title=part.spec.engine + part.title_suffix, version="1",
                precision=part.spec.precision, block=part.block, argv=("x",), slots=part.spec.slots,
            )
        )  # fmt: skip
        cells = [self.cell(part, one, recording.folder.path) for one in work]
        cells = [msgspec.structs.replace(one, state=CellState.INVALID) if is_spoiled(one) else one for one in cells]
        for cell in cells:
            recording.add_cell(cell)
        progress.done(f"launch {part.spec.engine}", "")
        return cells

    def cell(self, part: Any, one: Any, folder: Path) -> Cell:
        value = self.rate_tok_s(part.role, one.level.users, part.block) * (1 + 0.001 * one.repeat)
        prompt_tokens = self.prompt_tokens.get(part.role, 30)
        requests_file = f"requests/{part.role}-{one.level.name}-{part.block}-{one.repeat}.jsonl"
        record = RequestRecord(user=0, index=0, is_warmup=False, sent_s=0, end_s=1, prompt_tokens=prompt_tokens)
        (folder / requests_file).write_bytes(msgspec.json.encode(record) + b"\n")
        return Cell(
            engine=part.spec.engine, title="t", role=part.role, model="m", scenario=one.scenario.name,
            requests_file=requests_file,
            users=one.level.users, block=part.block, repeat=one.repeat, state=CellState.MEASURED, requests=10,
            prompt_tokens_mean=prompt_tokens, output_tokens_mean=8.0,
            output_tok_s=Estimate(value=value, low=value, high=value, confidence=0.95, n=9, unit="tok/s"),
        )  # fmt: skip


def steady(role: str, _users: int, _block: int) -> float:
    if role.startswith("baseline search"):  # the first of them is the baseline unchanged
        return 100.0 if role == "baseline search 1" else 200.0
    return {"baseline": 100.0, "baseline tuned": 200.0}.get(role, 300.0)


def run(engines: Engines, results: Path, **changes: Any) -> compare.Done:
    return compare.run(
        msgspec.structs.replace(PLAN, **changes),
        results=results,
        say=lambda _: None,
        measure=engines.measure,
        clock=lambda: engines.now_s,
    )


def test_what_is_to_come_is_told_before_the_first_launch(tmp_path: Path) -> None:
    said: list[str] = []
    engines = Engines(steady)
    done = compare.run(PLAN, results=tmp_path, say=said.append, measure=engines.measure, clock=lambda: engines.now_s)
    launches, cells = len(engines.launches), len(done.folder.cells())
    assert said[0].startswith(f"{launches} launches and {cells} cells: at least ")


# ---------------------------------------------------------------- the order of launches


def test_blocks_alternate_so_that_drift_favours_neither_side(tmp_path: Path) -> None:
    engines = Engines(steady)
    done = run(engines, tmp_path, blocks=3)
    assert engines.launches == [
        (1, "baseline"), (1, "candidate"), (2, "candidate"), (2, "baseline"), (3, "baseline"), (3, "candidate")
    ]  # fmt: skip
    assert {facts.block for facts in done.folder.run().engines} == {1, 2, 3}
    assert len(done.folder.cells()) == 3 * 2 * 2 * 2


def test_the_tuned_baseline_is_searched_first_and_then_a_side_of_its_own(tmp_path: Path) -> None:
    engines = Engines(steady)
    done = run(engines, tmp_path, tuned_most=Settings(slots=5, context_tokens=4096))
    searches = [role for _, role in engines.launches if role.startswith("baseline search")]
    assert len(searches) == 2 * 3, "few slots and many beside it unchanged, and no more without a GPU"
    assert searches == [f"baseline search {number}" for number in (1, 2, 3, 3, 2, 1)]
    measured = engines.launches[len(searches) :]
    assert [role for block, role in measured] == [
        "baseline", "baseline tuned", "candidate", "candidate", "baseline tuned", "baseline"
    ]  # fmt: skip
    levels = set(engines.levels[len(searches) :])
    assert levels == {SCENARIO.levels, (Level(users=5),)}, "one user has no use for slots, on a CPU"
    rows = {(row.against, row.users): row for row in done.folder.run().comparisons if row.metric == "output_tok_s"}
    assert rows["baseline", 5].ratio is not None
    assert rows["baseline", 5].ratio.value == pytest.approx(3.0)
    assert rows["baseline tuned", 5].ratio is not None
    assert rows["baseline tuned", 5].ratio.value == pytest.approx(1.5)
    assert ("baseline", 1) in rows
    assert ("baseline tuned", 1) not in rows
    assert rows["baseline", 5].target == 2.0
    assert rows["baseline tuned", 5].target is None, "targets are set for Ollama as it comes"
    manifest = done.folder.run().manifest
    assert manifest is not None
    assert [side.role for side in manifest.sides] == ["baseline", "baseline tuned", "candidate"]


def test_a_baseline_that_nothing_is_surely_faster_than_gets_no_second_side(tmp_path: Path) -> None:
    most = Settings(slots=5, context_tokens=4096)
    spec = compare.baseline.with_settings(PLAN.baseline.spec, most)
    engines = Engines(steady)

    def more_is_better(part: Any, work: Any, **told: Any) -> list[Cell]:
        cells = engines.measure(part, work, **told)
        flash = part.spec.env["OLLAMA_FLASH_ATTENTION"] == "1" if part.role.startswith("baseline") else 0
        return [replaced(cell, part.spec.slots + flash) for cell in cells]

    plan = msgspec.structs.replace(PLAN, tier=Tier.EQUAL, baseline=compare.Side(spec=spec), tuned_most=most)
    done = compare.run(plan, results=tmp_path, say=lambda _: None, measure=more_is_better, clock=lambda: 0.0)
    roles = {role for _, role in engines.launches}
    assert "baseline search 1" in roles
    assert "baseline tuned" not in roles
    assert any("None of them was surely faster" in note for note in done.folder.run().notes)


def test_the_search_for_settings_has_other_prompts_than_the_comparison(tmp_path: Path) -> None:
    """Measured on the prompts that it was chosen by, a winner looks better than it is."""
    stages: dict[str, set[str]] = {}

    def measure(part: Any, work: Any, **told: Any) -> list[Cell]:
        stages.setdefault(part.stage, set()).add(part.role.partition(" search")[0])
        return engines.measure(part, work, **told)

    engines = Engines(steady)
    plan = msgspec.structs.replace(PLAN, tuned_most=Settings(slots=5, context_tokens=4096))
    compare.run(plan, results=tmp_path, say=lambda _: None, measure=measure, clock=lambda: 0.0)
    assert stages == {"baseline search": {"baseline"}, "": {"baseline", "baseline tuned", "candidate"}}


def replaced(cell: Cell, value: float) -> Cell:
    assert cell.output_tok_s is not None
    return msgspec.structs.replace(cell, output_tok_s=msgspec.structs.replace(cell.output_tok_s, value=value))


# ---------------------------------------------------------------- cells that do not count


def test_a_load_with_too_few_cells_that_count_gets_one_more_block(tmp_path: Path) -> None:
    engines = Engines(steady)

    def spoiled(part: Any, work: Any, **told: Any) -> list[Cell]:
        return engines.measure(part, work, is_spoiled=lambda cell: part.block == 1 and cell.users == 5, **told)

    plan = msgspec.structs.replace(PLAN, repeats=1)
    done = compare.run(plan, results=tmp_path, say=lambda _: None, measure=spoiled, clock=lambda: 0.0)
    assert engines.launches[4:] == [(3, "baseline"), (3, "candidate")]
    assert engines.levels[4:] == [(Level(users=5),)] * 2
    rows = {row.users: row for row in done.folder.run().comparisons if row.metric == "output_tok_s"}
    assert rows[5].ratio is not None
    assert any("too few cells that count: concurrent at 5" in note for note in done.folder.run().notes)


def test_cells_that_never_count_are_not_measured_for_ever(tmp_path: Path) -> None:
    engines = Engines(steady)

    def spoiled(part: Any, work: Any, **told: Any) -> list[Cell]:
        return engines.measure(part, work, is_spoiled=lambda cell: cell.users == 5, **told)

    done = compare.run(
        PLAN, results=tmp_path, say=lambda _: None, measure=spoiled, clock=lambda: 0.0
    )  # fmt: skip
    assert len(engines.launches) == 6
    rows = {row.users: row for row in done.folder.run().comparisons if row.metric == "output_tok_s"}
    assert rows[5].ratio is None
    assert rows[1].ratio is not None


# ---------------------------------------------------------------- precision


def unsettled(role: str, users: int, block: int) -> float:
    """The candidate at 5 users differs from launch to launch in the first two blocks; all else is steady."""
    wobble = {1: 0.9, 2: 1.1}.get(block, 1.0) if (role, users) == ("candidate", 5) else 1.0
    return steady(role, users, block) * wobble


def test_blocks_are_added_only_for_what_is_not_known_well_enough(tmp_path: Path) -> None:
    engines = Engines(unsettled)
    done = run(engines, tmp_path, precision_ratio=0.2)
    assert done.precision is not None
    assert done.precision.is_reached
    assert done.precision.blocks > 2
    assert set(engines.levels[4:]) == {(Level(users=5),)}
    assert [role for _, role in engines.launches[4:6]] == ["baseline", "candidate"]
    assert any("Precision: ±20.0% of each ratio was asked for, and reached" in note for note in done.folder.run().notes)


def test_a_precision_that_is_there_already_adds_nothing(tmp_path: Path) -> None:
    engines = Engines(steady)
    done = run(engines, tmp_path, precision_ratio=0.05)
    assert len(engines.launches) == 4
    assert done.precision is not None
    assert done.precision.is_reached
    assert done.precision.blocks == 2


def test_the_budget_ends_what_the_precision_asks_for_and_says_so(tmp_path: Path) -> None:
    def restless(role: str, users: int, block: int) -> float:
        return steady(role, users, block) * (1.2 if block % 2 else 1.0)

    engines = Engines(lambda role, users, block: restless(role, users, block) if role == "candidate" else 100.0)
    done = run(engines, tmp_path, precision_ratio=0.0001, budget_s=1.0)
    assert done.precision is not None
    assert not done.precision.is_reached
    assert done.precision.blocks == 2, "one more block would not have fitted"
    assert "budget of 1 s" in done.precision.reason
    assert done.precision.widest_ratio is not None
    assert done.precision.widest_ratio > 0.0001
    assert any("not reached" in note for note in done.folder.run().notes)


def test_no_precision_asked_for_is_none_told(tmp_path: Path) -> None:
    assert run(Engines(steady), tmp_path).precision is None


# ---------------------------------------------------------------- what is judged


def test_prompts_that_count_differently_give_no_ratio_and_a_fault(tmp_path: Path) -> None:
    done = run(Engines(steady, prompt_tokens={"baseline": 40}), tmp_path)
    rows = done.folder.run().comparisons
    assert rows
    assert all(row.ratio is None and row.verdict == Verdict.UNDECIDED for row in rows)
    assert "not the same work" in rows[0].reason
    manifest = done.folder.run().manifest
    assert manifest is not None
    assert len(manifest.faults) == 2, "one for each load"


def test_the_equal_tier_gives_no_ratio_for_what_is_not_shown_to_be_equal(tmp_path: Path) -> None:
    done = run(Engines(steady), tmp_path, tier=Tier.EQUAL)
    assert all(row.ratio is None for row in done.folder.run().comparisons)
    assert "The tier is equal" in done.folder.run().comparisons[0].reason


def test_drift_between_blocks_is_a_note(tmp_path: Path) -> None:
    engines = Engines(lambda role, users, block: steady(role, users, block) * (1.2 if block == 2 else 1.0))
    notes = run(engines, tmp_path).folder.run().notes
    assert any(note.startswith("Drift: baseline, concurrent at 1") for note in notes)


def test_one_launch_per_side_is_said_and_several_are_not(tmp_path: Path) -> None:
    assert any("One launch per side" in note for note in run(Engines(steady), tmp_path, blocks=1).folder.run().notes)
    assert not any("One launch per side" in note for note in run(Engines(steady), tmp_path).folder.run().notes)


def test_settings_that_do_not_fit_are_noted_in_the_run(tmp_path):
    noted = run(Engines(steady), tmp_path, notes=("--any-preset: found on h100.",)).folder.run().notes
    assert "--any-preset: found on h100." in noted


def test_what_was_measured_is_judged_although_an_engine_dies_later(tmp_path: Path) -> None:
    engines = Engines(steady)

    def measure(part: Any, work: Any, **told: Any) -> list[Cell]:
        if part.block == 2 and part.role == "baseline":
            raise EngineCrashed("it died twice")
        return engines.measure(part, work, **told)

    with pytest.raises(EngineCrashed):
        compare.run(PLAN, results=tmp_path, say=lambda _: None, measure=measure, clock=lambda: 0.0)
    (folder,) = (compare.RunFolder(path.parent) for path in tmp_path.glob("*/run.json"))
    assert folder.run().state == RunState.FAILED
    assert folder.run().comparisons
    assert folder.run().manifest is not None


def test_only_the_wanted_levels_of_a_scenario_are_left() -> None:
    assert compare.only(SCENARIO, {("concurrent", Level(users=5)), ("other", Level(users=1))}) == SCENARIO.at(
        [Level(users=5)]
    )
    assert compare.only(SCENARIO, {("other", Level(users=5))}) is None


# ---------------------------------------------------------------- the search behind the settings


def searched(tmp_path: Path) -> Path:
    """The folder of a search, as far as a report tells of it."""
    done = run(Engines(steady), tmp_path / "search")
    folder = done.folder
    defence = Defence(round=1, trials=1, blocks=2, finalists=(1,), is_done=True)
    folder.write_run(msgspec.structs.replace(folder.run(), kind="tune", defence=defence, front=(1, 2)))
    folder.append_trial(Trial(number=0, flags={}, outcome=Outcome.MEASURED))
    folder.append_defence(
        DefenceLaunch(stage="finals", round=1, role="final trial 1", block=1, flags={}, outcome=Outcome.MEASURED)
    )
    return folder.path


def test_the_search_behind_the_settings_is_taken_into_the_comparison(tmp_path: Path) -> None:
    found_in = searched(tmp_path)
    folder = run(Engines(steady), tmp_path, tuned_in=found_in).folder
    assert [one.number for one in folder.trials()] == [0]
    assert [one.role for one in folder.defence()] == ["final trial 1"]
    assert folder.run().defence == RunFolder(found_in).run().defence
    assert folder.run().front == (1, 2)


def test_a_search_of_another_version_gives_its_trials_and_a_note(tmp_path: Path) -> None:
    found_in = searched(tmp_path)
    (found_in / "run.json").write_text('{"version": 1}')
    folder = run(Engines(steady), tmp_path, tuned_in=found_in).folder
    assert len(folder.trials()) == 1
    assert folder.run().defence is None
    assert any("no more than its trials" in note for note in folder.run().notes)
