"""A whole study on a clock of its own: what is tried, stopped, learned, retried, and how a budget is kept."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from harness import load, models
from harness.errors import (
    DiskFull,
    EngineContextTooLong,
    EngineCrashed,
    EngineHung,
    EngineNotFound,
    EngineOutOfMemory,
    EnginePortTaken,
    MeasurementInvalid,
    UsageError,
)
from harness.records import Estimate, ModelFiles, Outcome, RunState, Trial
from harness.store import CUT_OFF, RunFolder
from harness.tune import launches, session, spending
from harness.tune.contest import is_first_of_kind
from harness.tune.crown import winner
from harness.tune.plan import read_plan, write_plan
from harness.tune.session import resumable, resume, run
from harness.tune.trials import failed_trial
from tests.unit.harness.tune.worlds import (
    CELL_S,
    LAUNCH_S,
    SCENARIO,
    USERS,
    FakeEngines,
    Killed,
    like_all,
    plan,
    recording_of,
    reopened,
    study,
)

FLAGS = {"max-num-batched-tokens": 2048, "max-num-seqs": 64, "max-model-len": 8192}


def settings_of(*counts: int) -> list[dict[str, int]]:
    return [{"max-num-batched-tokens": 8192, "max-num-seqs": count, "max-model-len": 4096} for count in counts]


def better_with_128(flags, users):
    return like_all(flags, users) * {128: 1.3, 8: 0.2}.get(flags.get("max-num-seqs"), 1.0)


# ---------------------------------------------------------------- the search


def test_every_trial_is_on_disk_with_where_it_comes_from(tmp_path):
    engines = FakeEngines(better_with_128)
    made, search, said = study(plan(trials=2, is_defended=False), tmp_path / "run", engines, settings_of(64, 128))
    made.go_on(tmp_path)
    trials = RunFolder(tmp_path / "run").trials()
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert [trial.origin for trial in trials] == ["", "list", "list"]
    assert trials[2].objectives["balanced"] == trials[2].objective
    assert trials[2].objective.value == pytest.approx(1.3, rel=0.05)
    assert search.told[1][0] == pytest.approx((math.log(trials[2].objective.value),))
    assert [trial.number for trial in search.learned] == [1, 2]
    assert any("1.3" in line for line in said)


def test_what_was_asked_and_among_what_was_searched_is_recorded(tmp_path):
    made, _, _ = study(plan(trials=1, is_defended=False), tmp_path / "run", FakeEngines(), settings_of(64))
    made.go_on(tmp_path)
    asked = RunFolder(tmp_path / "run").run().asked
    assert (asked.users, asked.trials, asked.budget_s, asked.is_defended) == (USERS, 1, None, False)
    assert asked.objectives["balanced"].startswith("geometric mean of the ratios")
    assert [one.flag for one in asked.ladders] == list(settings_of(64)[0])


def test_each_line_of_a_simulated_study_says_that_it_is_simulated(tmp_path):
    asked = plan(trials=1, is_defended=False, engine="simulated")
    made, _, said = study(asked, tmp_path / "run", FakeEngines(), settings_of(64))
    made.go_on(tmp_path)
    assert len(said) > 2
    assert all(line.startswith("simulated") for line in said)
    assert not any(line.startswith("simulated  simulated") for line in said)


def test_the_time_left_of_a_simulated_study_is_called_simulated(tmp_path):
    run(plan_in_simulation(), results=tmp_path, say=(said := list[str]()).append)
    left = [line for line in said if line.endswith("left]")]
    assert left
    assert all(line.endswith(" of simulated time left]") for line in left)


def plan_in_simulation():
    """Of a small load, so that the real simulation takes a moment only."""
    entry = models.entry("qwen2.5-1.5b")
    files = ModelFiles(model=entry.name, vllm_precision="bf16", is_synthetic=True)
    scenario = structs.replace(SCENARIO, load=structs.replace(SCENARIO.load, users=(1,), min_s=2))
    return plan(engine="simulated", trials=1, is_defended=False, users=(1,), scenario=scenario, files=files, repeats=2)


def test_all_loads_are_measured_in_one_launch_the_highest_first(tmp_path):
    engines = FakeEngines()
    made, _, _ = study(plan(trials=1, is_defended=False), tmp_path / "run", engines, settings_of(64))
    made.go_on(tmp_path)
    assert engines.launches == [("baseline", 1), ("trial 1", 1)]
    cells = RunFolder(tmp_path / "run").cells()
    assert [cell.users for cell in cells] == [100] * 3 + [10] * 3 + [1] * 3 + [100] * 3 + [10] * 3 + [1] * 3


def test_a_hopeless_candidate_is_stopped_after_a_load_and_its_figures_are_kept(tmp_path):
    engines = FakeEngines(better_with_128)
    made, search, _ = study(plan(trials=3, is_defended=False), tmp_path / "run", engines, settings_of(64, 128, 8))
    made.go_on(tmp_path)
    last = RunFolder(tmp_path / "run").trials()[3]
    assert last.outcome == Outcome.STOPPED
    assert "behind trial 2 at 100 users" in last.stopped
    assert last.objective is None
    assert last.partial.value == pytest.approx(0.2, rel=0.1)
    assert [cell.users for cell in made.recording.folder.cells() if cell.role == "trial 3"] == [100] * 3
    values, constraints = search.told[-1]
    assert values == pytest.approx((math.log(last.partial.value),))
    assert constraints == {}


def test_what_was_stopped_is_no_finalist_and_no_winner(tmp_path):
    engines = FakeEngines(better_with_128)
    made, _, _ = study(plan(trials=2), tmp_path / "run", engines, settings_of(64, 8))
    made.go_on(tmp_path)
    assert 2 not in made.recording.run.defence.finalists


def test_the_first_of_a_kind_is_measured_whole():
    seen = [Trial(number=1, flags={"max-num-seqs": 64, "kv-cache-dtype": "auto"}, outcome=Outcome.MEASURED)]
    assert not is_first_of_kind({"max-num-seqs": 128}, seen)
    assert is_first_of_kind({"max-num-seqs": 128, "kv-cache-dtype": "fp8"}, seen)
    assert is_first_of_kind({"async-scheduling": False}, seen)


def test_a_search_that_is_exhausted_ends_well(tmp_path):
    made, _, said = study(plan(trials=9, is_defended=False), tmp_path / "run", FakeEngines(), settings_of(64))
    made.go_on(tmp_path)
    assert any("every candidate" in line for line in said)


def test_several_objectives_leave_a_front(tmp_path):
    def bends(flags, users):
        at_most = {256: 1.3, 32: 0.8}.get(flags.get("max-num-seqs"), 1.0)
        alone = {256: 0.9, 32: 1.2}.get(flags.get("max-num-seqs"), 1.0)
        return like_all(flags, users) * (alone if users == 1 else at_most)

    asked = plan(trials=2, objective="throughput,latency", is_defended=False)
    made, search, said = study(asked, tmp_path / "run", FakeEngines(bends), settings_of(256, 32))
    made.go_on(tmp_path)
    assert set(made.recording.run.front) >= {1, 2}
    assert len(search.told[0][0]) == 2
    assert any("no settings beat these" in line and "throughput 1.3" in line for line in said)


# ---------------------------------------------------------------- failures


def test_a_context_that_does_not_fit_keeps_the_length_that_would():
    error = EngineContextTooLong("too long", fits=4096, log=Path("engine-trial-3.log"))
    trial = failed_trial(3, FLAGS, error, wall_s=9.0)
    assert trial.outcome == Outcome.CONTEXT_TOO_LONG
    assert trial.constraints["context"] == pytest.approx(1.0)  # twice what fits
    assert trial.fits_tokens == 4096
    assert trial.log == "engine-trial-3.log"


def test_a_context_that_nobody_asked_for_can_be_too_long_too():
    trial = failed_trial(3, {}, EngineContextTooLong("too long", fits=4096), wall_s=9.0)
    assert max(trial.constraints.values()) > 0


def test_memory_that_is_short_is_told_by_how_much():
    trial = failed_trial(1, FLAGS, EngineOutOfMemory("short", short_bytes=3 * 2**30), wall_s=1.0)
    assert trial.constraints == {"memory_short_gib": 3.0}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (EngineCrashed("gone"), Outcome.CRASHED),
        (EngineHung("silent"), Outcome.HUNG),
        (EngineOutOfMemory("short", short_bytes=2**30), Outcome.OUT_OF_MEMORY),
        (EngineContextTooLong("long", fits=1024), Outcome.CONTEXT_TOO_LONG),
    ],
)
def test_a_candidate_that_fails_is_learned_and_the_search_goes_on(tmp_path, error, outcome):
    def fails(flags, count):
        return error if flags.get("max-num-seqs") == 64 else None

    made, search, _ = study(
        plan(trials=2, is_defended=False), tmp_path / "run", FakeEngines(fails=fails), settings_of(64, 128)
    )
    made.go_on(tmp_path)
    trials = RunFolder(tmp_path / "run").trials()
    assert [trial.outcome for trial in trials] == [Outcome.MEASURED, outcome, Outcome.MEASURED]
    assert search.told[0][0] is None
    assert max(search.told[0][1].values()) > 0
    assert search.learned[0].outcome == outcome


def test_memory_that_runs_out_under_load_is_told_with_the_load(tmp_path):
    def dies(flags, users):
        return EngineOutOfMemory("under load", short_bytes=2**30) if flags and users == 10 else None

    made, _, _ = study(plan(trials=1, is_defended=False), tmp_path / "run", FakeEngines(dies=dies), settings_of(64))
    made.go_on(tmp_path)
    trial = RunFolder(tmp_path / "run").trials()[1]
    assert trial.outcome == Outcome.OUT_OF_MEMORY
    assert trial.died_under_users == 10
    assert trial.launch_s == LAUNCH_S
    assert trial.constraints == {"memory_short_gib": 1.0}


@pytest.mark.parametrize(
    "error", [EngineOutOfMemory("a stranger holds memory", is_environmental=True), EnginePortTaken("taken")]
)
def test_what_others_do_is_waited_for_and_not_learned(tmp_path, error):
    engines = FakeEngines(fails=lambda flags, count: error if count in {2, 3} else None)
    made, search, said = study(plan(trials=1, is_defended=False), tmp_path / "run", engines, settings_of(64))
    made.go_on(tmp_path)
    trial = RunFolder(tmp_path / "run").trials()[1]
    assert trial.outcome == Outcome.MEASURED
    assert trial.retries == 2
    assert engines.pauses == list(launches.PAUSES_S[:2])
    assert search.told[0][1] == {}
    assert any("not these settings' doing" in line for line in said)


def test_others_who_never_leave_stop_the_study_with_the_way_to_go_on(tmp_path):
    taken = EngineOutOfMemory("a stranger holds memory", is_environmental=True)
    engines = FakeEngines(fails=lambda flags, count: taken if count > 1 else None)
    recording = recording_of(plan(), tmp_path / "run")
    made, search, _ = study(plan(trials=1), tmp_path / "run", engines, settings_of(64), recording=recording)
    with pytest.raises(EngineOutOfMemory) as stopped:
        made.go_on(tmp_path)
    assert stopped.value.exit_code == 3
    assert len(engines.launches) == 1 + launches.TRIES
    assert search.returned == [1]
    assert len(RunFolder(tmp_path / "run").trials()) == 1


def test_an_engine_that_is_not_there_is_not_the_candidates_fault(tmp_path):
    engines = FakeEngines(fails=lambda flags, count: EngineNotFound("gone") if flags else None)
    made, search, _ = study(plan(trials=1), tmp_path / "run", engines, settings_of(64))
    with pytest.raises(EngineNotFound):
        made.go_on(tmp_path)
    assert search.returned == [1]


def test_a_baseline_that_does_not_fit_is_mended_once(tmp_path):
    def fails(flags, count):
        return None if "max-model-len" in flags else EngineContextTooLong("long", fits=5000)

    made, _, _ = study(plan(trials=1, is_defended=False), tmp_path / "run", FakeEngines(fails=fails), settings_of(64))
    made.go_on(tmp_path)
    assert RunFolder(tmp_path / "run").trials()[0].flags == {"max-model-len": 4096}
    assert any("--max-model-len 4096" in note for note in made.recording.run.notes)


def test_a_baseline_that_fails_twice_ends_the_study(tmp_path):
    made, _, _ = study(plan(), tmp_path / "run", FakeEngines(fails=lambda *_: EngineCrashed("no")), settings_of(64))
    with pytest.raises(EngineCrashed):
        made.go_on(tmp_path)


def test_a_baseline_without_figures_is_refused(tmp_path):
    made, _, _ = study(plan(objective="latency:ttft:p99"), tmp_path / "run", FakeEngines(), settings_of(64))
    with pytest.raises(MeasurementInvalid, match=r"0 valid repeats of ttft_s\.p99"):
        made.go_on(tmp_path)


# ---------------------------------------------------------------- the budget


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget_s=st.floats(400.0, 9_000.0), launch_s=st.floats(10.0, 200.0), slow=st.floats(1.0, 2.0))
def test_a_budget_is_kept_to_a_tenth_and_the_defence_is_within_it(tmp_path_factory, budget_s, launch_s, slow):
    """Launches of candidates may take longer than the baseline's."""
    engines = FakeEngines(better_with_128, launch_s=launch_s)
    asked = plan(trials=None, budget_s=budget_s)
    least_s = launch_s + 3 * 3 * CELL_S
    if budget_s < 1.2 * least_s + spending.CLOSING_S:
        return
    made, _, _ = study(asked, tmp_path_factory.mktemp("study") / "run", engines, settings_of(*range(100, 164)))
    made._defaults.measure()
    engines.launch_s = launch_s * slow
    made.go_on(tmp_path_factory.mktemp("results"))
    assert engines.now_s <= 1.1 * budget_s


@pytest.mark.parametrize("budget_s", [2700.0, 3600.0, 10_800.0])
@pytest.mark.parametrize(
    "truth",
    [like_all, better_with_128, lambda flags, users: like_all(flags, users) * (0.8 if flags else 1.0)],
    ids=["all alike", "one better", "all worse"],
)
def test_a_budget_is_used_up_whatever_the_defence_needs(tmp_path, truth, budget_s):
    """Where nobody wins there is no ablation, and where nobody looks better no defence: the others use their time."""
    engines = FakeEngines(truth, launch_s=60.0)
    asked = plan(trials=None, budget_s=budget_s, repeats=2)
    made, _, _ = study(asked, tmp_path / "run", engines, settings_of(*range(120, 199)))
    made.go_on(tmp_path)
    assert 0.9 * budget_s <= engines.now_s <= 1.1 * budget_s
    assert not any(note.startswith(spending.ENDED) for note in made.recording.run.notes)


@pytest.mark.parametrize(
    ("budget_s", "listed", "said"),
    [
        (2000.0, range(100, 199), "another candidate takes about 3 min 54 s"),
        (2000.0, range(100, 102), "all candidates have been tried"),
    ],
)
def test_a_study_that_ends_long_before_its_budget_says_why(tmp_path, budget_s, listed, said):
    engines = FakeEngines(lambda flags, users: like_all(flags, users) * (0.8 if flags else 1.0))
    asked = plan(trials=None, budget_s=budget_s, repeats=2)
    made, _, lines = study(asked, tmp_path / "run", engines, settings_of(*listed))
    made.go_on(tmp_path)
    assert engines.now_s < 0.9 * budget_s
    (note,) = [note for note in made.recording.run.notes if note.startswith(spending.ENDED)]
    assert said in note
    assert note in lines


@pytest.mark.parametrize("at", range(-9, 0))
def test_finals_that_went_on_after_they_were_judged_are_not_judged_at_that_moment_again(tmp_path, at):
    """A third look would not be paid for; at most the launch that was under way is lost."""
    asked, listed = plan(trials=None, budget_s=10_800.0), settings_of(*range(120, 199))
    whole = FakeEngines()
    made, _, _ = study(asked, tmp_path / "whole", whole, listed)
    made.go_on(tmp_path)
    judged = made.recording.run.defence
    assert (judged.winner, judged.looks, judged.extended) == (None, 2, ("finals",))
    assert max(one.launches for one in judged.finals) > judged.blocks
    count = len(whole.launches) + 1 + at
    made, _, _ = study(
        asked, tmp_path / "run", FakeEngines(fails=lambda flags, n: Killed() if n == count else None), listed
    )
    with pytest.raises(Killed):
        made.go_on(tmp_path)
    was_extended = RunFolder(tmp_path / "run").run().defence.extended
    again = FakeEngines()
    made, _, lines = study(asked, tmp_path / "run", again, listed, recording=reopened(tmp_path / "run"))
    made.go_on(tmp_path)
    finals = [(one.role, one.block) for one in made.recording.folder.defence()]
    assert len(set(finals)) == len(finals)
    assert made.recording.run.defence.extended == ("finals",)
    assert sum(line.startswith("trial") and "the baseline (" in line for line in lines) == len(judged.finals) * (
        1 if was_extended else 2
    )


def test_a_budget_shorter_than_one_launch_is_refused_before_anything_is_launched(tmp_path):
    with pytest.raises(UsageError) as refused:
        run(plan(trials=None, budget_s=60.0), results=tmp_path, say=lambda _: None)
    assert "takes about" in refused.value.message
    assert refused.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("budget_s", "said"), [(900.0, True), (9_000.0, False)])
def test_a_budget_that_can_crown_nobody_is_said_before_anything_is_launched(tmp_path, monkeypatch, budget_s, said):
    lines = list[str]()
    monkeypatch.setattr(session, "_gone_on", lambda *_, **__: lines.append("launched"))
    run(plan(trials=None, budget_s=budget_s), results=tmp_path, say=lines.append)
    assert any("can only end with the defaults" in line for line in lines[: lines.index("launched")]) == said


def test_a_candidate_that_takes_too_long_is_stopped_in_time(tmp_path):
    engines = FakeEngines()
    asked = plan(trials=None, budget_s=1500.0, is_defended=False)
    made, _, _ = study(asked, tmp_path / "run", engines, settings_of(64, 128, 256, 512))
    original = engines.launch

    def slow(part, **words):
        engines.launch_s = LAUNCH_S if part.role in {"baseline", "trial 1"} else 800.0
        return original(part, **words)

    made._launcher._launch = slow
    made.go_on(tmp_path)
    last = RunFolder(tmp_path / "run").trials()[-1]
    assert last.outcome == Outcome.STOPPED
    assert "budget" in last.stopped
    assert engines.now_s <= 1.1 * 1500 + CELL_S


# ---------------------------------------------------------------- going on


def killed(asked, folder, listed, **how) -> None:
    """A study that is killed, as `fails` or `dies` say."""
    made, _, _ = study(asked, folder, FakeEngines(better_with_128, **how), listed)
    with pytest.raises(Killed):
        made.go_on(folder.parent)


def killed_at(asked, folder, at: int, listed) -> None:
    """A study whose launch number `at` is killed."""
    killed(asked, folder, listed, fails=lambda flags, count: Killed() if count == at else None)


def uninterrupted(folder):
    engines = FakeEngines(better_with_128)
    made, _, _ = study(plan(trials=3), folder / "run", engines, settings_of(64, 128, 256))
    made.go_on(folder)
    return made, engines


def gone_on(folder):
    again = FakeEngines(better_with_128)
    made, _, _ = study(
        plan(trials=3), folder / "run", again, settings_of(64, 128, 256), recording=reopened(folder / "run")
    )
    made.go_on(folder)
    return made, again


@pytest.mark.parametrize("at", range(1, 13))
def test_a_study_that_is_killed_at_any_launch_loses_that_one_and_no_other(tmp_path, at):
    whole, engines = uninterrupted(tmp_path / "whole")
    assert len(engines.launches) >= at
    killed_at(plan(trials=3), tmp_path / "run", at, settings_of(64, 128, 256))
    made, again = gone_on(tmp_path)
    assert again.launches == engines.launches[at - 1 :]
    assert made.recording.run.preset.flags == whole.recording.run.preset.flags
    assert made.recording.run.defence == whole.recording.run.defence
    assert [trial.number for trial in made.recording.folder.trials()] == [0, 1, 2, 3]


@pytest.mark.parametrize("moment", random.Random(5).sample(range(1, 50), 20))
def test_a_study_that_is_killed_at_any_moment_comes_to_the_same_end(tmp_path, moment):
    whole, engines = uninterrupted(tmp_path / "whole")
    cells = 0

    def dies(flags, users):
        nonlocal cells
        cells += 1
        if cells == moment:
            raise Killed
        return

    killed(plan(trials=3), tmp_path / "run", settings_of(64, 128, 256), dies=dies)
    made, again = gone_on(tmp_path)
    assert made.recording.run.preset.flags == whole.recording.run.preset.flags
    assert made.recording.run.defence == whole.recording.run.defence
    assert again.launches == engines.launches[-len(again.launches) :]
    counted = [cell for cell in made.recording.folder.cells() if not cell.role.endswith(CUT_OFF)]
    assert len(counted) == len(whole.recording.folder.cells())


def test_a_full_disk_costs_no_candidate_its_trial(tmp_path):
    """What was not recorded tells nothing of flags: the study ends, and measures the candidate when there is room."""
    why = load.unwritable("No space left on device", folder=tmp_path)
    engines = FakeEngines(better_with_128, spoils=lambda flags, _: (why,) if flags.get("max-num-seqs") == 128 else ())
    made, search, _ = study(plan(trials=3), tmp_path / "run", engines, settings_of(64, 128, 256))
    with pytest.raises(DiskFull, match="No space left on device") as caught, resumable(made.recording, say=print):
        made.go_on(tmp_path)
    assert "harness tune --resume run" in caught.value.hint
    assert [trial.number for trial in made.recording.folder.trials()] == [0, 1]
    assert search.returned == [2]
    again, _ = gone_on(tmp_path)
    assert [trial.flags for trial in again.recording.folder.trials()][1:] == settings_of(64, 128, 256)
    assert again.recording.folder.trials()[2].outcome == Outcome.MEASURED
    assert again.recording.run.preset.flags == {"max-num-seqs": 128}


def test_a_study_that_goes_on_counts_the_time_that_was_spent(tmp_path):
    asked = plan(trials=None, budget_s=3600.0)
    killed_at(asked, tmp_path / "run", 5, settings_of(*range(100, 140)))
    spent_s = sum(trial.wall_s for trial in RunFolder(tmp_path / "run").trials())
    again = FakeEngines(better_with_128)
    made, _, _ = study(
        asked, tmp_path / "run", again, settings_of(*range(100, 140)), recording=reopened(tmp_path / "run")
    )
    assert made.spent_s == pytest.approx(spent_s)
    made.go_on(tmp_path)
    assert spent_s + again.now_s <= 1.1 * 3600


def test_a_study_that_has_ended_measures_nothing_again(tmp_path):
    asked, listed = plan(trials=2), settings_of(64, 128)
    made, _, _ = study(asked, tmp_path / "run", FakeEngines(better_with_128), listed)
    made.go_on(tmp_path)
    preset = made.recording.run.preset
    again = FakeEngines(better_with_128)
    made, _, _ = study(asked, tmp_path / "run", again, listed, recording=reopened(tmp_path / "run"))
    made.go_on(tmp_path)
    assert again.launches == []
    assert made.recording.run.preset == preset


def test_a_study_with_more_trials_than_before_is_defended_anew(tmp_path):
    listed = settings_of(64, 256, 128)
    made, _, _ = study(plan(trials=2), tmp_path / "run", FakeEngines(better_with_128), listed)
    made.go_on(tmp_path)
    again = FakeEngines(better_with_128)
    made, _, _ = study(plan(trials=3), tmp_path / "run", again, listed, recording=reopened(tmp_path / "run"))
    made.go_on(tmp_path)
    defence = made.recording.run.defence
    assert defence.trials == 3
    assert defence.winner == 3
    assert len(set(again.launches)) == len(again.launches)


def test_a_plan_of_another_version_is_refused_clearly(tmp_path):
    folder = recording_of(plan(), tmp_path / "run").folder
    old = json.loads((folder.path / "plan.json").read_bytes())
    del old["version"]
    (folder.path / "plan.json").write_text(json.dumps(old))
    with pytest.raises(UsageError, match="version 1"):
        resume(folder, results=tmp_path, trials=None, budget_s=None, vllm_python=None, say=lambda _: None)


def test_a_plan_survives_the_disk(tmp_path):
    asked = plan(slos=("ttft:p95<500ms",), objective="goodput", allowed=("kv-fp8",))
    folder = RunFolder(tmp_path / "run").create()
    write_plan(asked, folder)
    assert read_plan(folder) == asked


def test_an_interrupted_study_says_how_it_goes_on(tmp_path):
    recording, said = recording_of(plan(), tmp_path / "run"), list[str]()
    with pytest.raises(KeyboardInterrupt), resumable(recording, say=said.append):
        raise KeyboardInterrupt
    assert "harness tune --resume run" in said[0]
    recording.folder.append_trial(Trial(number=0, flags={}, outcome=Outcome.MEASURED))
    with pytest.raises(EnginePortTaken) as stopped, resumable(recording, say=said.append):
        raise EnginePortTaken("taken", hint="find it")
    assert stopped.value.hint == "find it; then go on with: harness tune --resume run"


# ---------------------------------------------------------------- without a defence


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=4, unit="ratio")


@pytest.mark.parametrize(
    ("objectives", "number"),
    [
        ([estimate(1.25, 1.20, 1.30), estimate(1.30, 0.99, 1.70)], 1),  # the sure one, not the one that looks best
        ([estimate(1.25, 1.20, 1.30), estimate(1.30, 1.10, 1.50)], 2),
        ([estimate(1.01, 0.99, 1.03), None], None),
        ([None, None], None),
    ],
)
def test_the_winner_is_the_best_of_those_that_are_surely_faster(objectives, number):
    trials = [
        Trial(number=n, flags={**FLAGS, "max-num-seqs": n}, outcome=Outcome.MEASURED, objective=objective)
        for n, objective in enumerate(objectives, start=1)
    ]
    best = winner(trials)
    assert (best.number if best else None) == number


def test_a_quick_study_says_that_its_winner_is_too_good_on_average(tmp_path):
    made, _, _ = study(
        plan(trials=1, is_defended=False), tmp_path / "run", FakeEngines(better_with_128), settings_of(128)
    )
    made.go_on(tmp_path)
    recorded = made.recording.run
    assert recorded.defence is None
    assert not recorded.preset.is_defended
    assert recorded.preset.flags["max-num-seqs"] == 128
    assert any("too good on average" in note for note in recorded.notes)
    assert recorded.state == RunState.RUNNING  # `recorded` and `kept` end it
