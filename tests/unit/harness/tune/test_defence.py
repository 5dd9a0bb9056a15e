"""The defence: chance is not crowned, what is better is, idle flags are dropped, other answers are refused."""

import math

import msgspec
import pytest

from harness.errors import EngineCrashed, EngineOutOfMemory
from harness.records import Defence, Estimate, Judged, Outcome, Trial
from harness.store import RunFolder
from harness.tune import quality, rules, spending
from harness.tune.defence import LATER, Defender
from harness.tune.rules import STAGE, does_nothing, finalists_of, overrides, without
from tests.unit.harness.tune.worlds import FakeEngines, Killed, like_all, plan, recording_of, reopened, study

SEEDS = 40


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=4, unit="ratio")


def candidates(*counts: int) -> list[dict[str, int]]:
    return [{"max-num-batched-tokens": 8192, "max-num-seqs": count, "max-model-len": 4096} for count in counts]


def only_seqs_matter(flags, users):
    return like_all(flags, users) * {128: 1.15, 64: 1.02}.get(flags.get("max-num-seqs"), 1.0)


# ---------------------------------------------------------------- small questions


def test_finalists_are_measured_whole_and_look_better_the_best_first():
    def trial(number: int, value: float, **more) -> Trial:
        found = estimate(value, value * 0.95, value * 1.05)
        return Trial(number=number, flags={}, outcome=more.pop("outcome", Outcome.MEASURED), objective=found, **more)

    slower = {"latency": estimate(0.8, 0.7, 0.9)}
    tried = [
        trial(0, 2.0), trial(1, 1.1), trial(2, 1.3), trial(3, 0.9), trial(4, 1.4, outcome=Outcome.STOPPED),
        trial(5, 1.5, objectives=slower),
    ]  # fmt: skip
    assert [one.number for one in finalists_of(tried)] == [2, 1]


def test_the_control_of_the_workers_is_no_finalist():
    found = estimate(1.2, 1.1, 1.3)
    control = Trial(number=1, flags={}, outcome=Outcome.MEASURED, objective=found, worker=1, is_control=True)
    assert finalists_of([control]) == []


def test_a_study_that_had_no_room_for_finals_has_them_when_it_goes_on_with_more(tmp_path):
    engines = FakeEngines(only_seqs_matter)
    asked = plan(trials=1, budget_s=900.0)
    made, _, _ = study(asked, tmp_path / "run", engines, candidates(128))
    made.go_on(tmp_path)
    assert "no room" in made.recording.run.defence.reason
    engines.now_s = 0.0
    more, _, _ = study(
        msgspec.structs.replace(asked, budget_s=20_000.0),
        tmp_path / "run",
        engines,
        [],
        recording=reopened(tmp_path / "run"),
    )
    more.go_on(tmp_path)
    assert more.recording.run.defence.winner == 1


def test_what_was_defended_stands_where_there_is_no_room_to_defend_what_came_later(tmp_path):
    """A few minutes more were room for one more candidate, and its finals that could not be took the winner away."""
    listed = candidates(128, 64)
    made, _, _ = study(plan(trials=1, budget_s=6_000.0), tmp_path / "run", FakeEngines(only_seqs_matter), listed)
    made.go_on(tmp_path)
    before = made.recording.run.defence
    assert before.winner == 1
    asked = plan(trials=2, budget_s=made.spent_s + 450.0)
    for _ in range(2):
        more, _, lines = study(
            asked, tmp_path / "run", FakeEngines(only_seqs_matter), listed, recording=reopened(tmp_path / "run")
        )
        more.go_on(tmp_path)
        assert len(more.recording.folder.trials()) == 3, "there was room for a candidate"
        assert more.recording.run.defence == before
        assert more.recording.run.preset.is_defended
        assert more.recording.run.notes.count(LATER) == 1
        assert LATER in lines


def test_finals_are_not_judged_again_once_the_ablation_of_their_winner_has_begun(tmp_path):
    """More time for a study that goes on would be a third look at them, and another winner without its own ablation."""
    asked, listed = plan(trials=2, budget_s=6_000.0), candidates(128, 64)
    whole = FakeEngines(only_seqs_matter)
    made, _, _ = study(asked, tmp_path / "whole", whole, listed)
    made.go_on(tmp_path)
    assert made.recording.run.defence.winner == 1
    count = next(at for at, (role, _) in enumerate(whole.launches, start=1) if role.startswith("ablation")) + 2
    killed = FakeEngines(only_seqs_matter, fails=lambda flags, launches: Killed() if launches == count else None)
    made, _, _ = study(asked, tmp_path / "run", killed, listed)
    with pytest.raises(Killed):
        made.go_on(tmp_path)
    finals = [one for one in made.recording.folder.defence() if one.stage == "finals"]
    assert len({one.block for one in finals}) < spending.MOST_FILLED, "there could have been more"
    longer = msgspec.structs.replace(asked, budget_s=20_000.0)
    again = FakeEngines(only_seqs_matter)
    made, _, _ = study(longer, tmp_path / "run", again, listed, recording=reopened(tmp_path / "run"))
    made.go_on(tmp_path)
    assert [one for one in made.recording.folder.defence() if one.stage == "finals"] == finals
    assert made.recording.run.defence.winner == 1


def test_a_flag_is_removed_down_to_what_the_baseline_has():
    base = {"max-model-len": 4096}
    flags = {"max-num-seqs": 128, "max-model-len": 2048}
    assert overrides(flags, baseline=base) == ["max-num-seqs", "max-model-len"]
    assert without(flags, "max-model-len", baseline=base) == {"max-num-seqs": 128, "max-model-len": 4096}
    assert without(flags, "max-num-seqs", baseline=base) == {"max-model-len": 2048}
    assert overrides(base, baseline=base) == []


@pytest.mark.parametrize(
    ("found", "is_idle"),
    [
        (estimate(1.0, 0.97, 1.03), True),
        (estimate(1.2, 1.1, 1.3), True),
        (estimate(0.99, 0.90, 1.09), False),  # nobody knows
        (estimate(0.97, 0.95, 0.99), False),  # more than the noise is lost
        (None, False),
    ],
)
def test_a_flag_does_nothing_where_the_whole_interval_says_so(found, is_idle):
    assert does_nothing(found) == is_idle


# ---------------------------------------------------------------- whole studies


def test_where_no_candidate_is_better_the_defaults_are_kept_in_95_of_100_studies(tmp_path):
    """The best of six is luck; launches spread by 1%, repeats by 1%."""
    crowned = 0
    for seed in range(SEEDS):
        engines = FakeEngines(like_all, seed=seed)
        made, _, _ = study(plan(trials=6), tmp_path / f"run{seed}", engines, candidates(16, 32, 64, 128, 256, 512))
        made.go_on(tmp_path)
        preset = made.recording.run.preset
        crowned += not preset.is_default
        assert preset.is_default == (preset.flags == {})
    assert crowned <= 0.05 * SEEDS


def test_what_is_truly_better_is_found_defended_and_rid_of_what_does_nothing(tmp_path):
    found = 0
    for seed in range(10):
        engines = FakeEngines(only_seqs_matter, seed=seed)
        made, _, _ = study(plan(trials=12), tmp_path / f"run{seed}", engines, candidates(*range(118, 129), 64))
        made.go_on(tmp_path)
        recorded = made.recording.run
        if recorded.defence.winner is None:
            continue
        assert recorded.preset.is_defended
        assert recorded.preset.flags["max-num-seqs"] == 128
        assert recorded.preset.ratio.low > 1.02
        assert recorded.preset.ratio.low <= 1.15 <= recorded.preset.ratio.high
        found += set(recorded.defence.dropped) == {"max-num-batched-tokens", "max-model-len"}
    assert found >= 8


def test_finals_take_turns_on_prompts_that_the_search_did_not_see(tmp_path):
    engines = FakeEngines(only_seqs_matter)
    made, _, _ = study(plan(trials=9), tmp_path / "run", engines, candidates(128, 64, *range(10, 17)))
    made.go_on(tmp_path)
    finals = [launch for launch in engines.launches if launch[0].startswith("final")]
    first = [role for role, block in finals if block == 1]
    second = [role for role, block in finals if block == 2]
    assert second == list(reversed(first))
    assert first[0] == "final baseline"
    assert all(part.stage == STAGE for part in engines.parts if not part.role.startswith(("baseline", "trial")))
    assert all(not part.stage for part in engines.parts if part.role.startswith(("baseline", "trial")))
    blocks = [block for role, block in engines.launches if role.startswith("ablation")]
    assert min(blocks) > max(block for _, block in finals)


def test_no_candidate_that_looks_better_needs_no_finals(tmp_path):
    engines = FakeEngines(lambda flags, users: like_all(flags, users) * (0.8 if flags else 1.0))
    made, _, _ = study(plan(trials=2), tmp_path / "run", engines, candidates(64, 128))
    made.go_on(tmp_path)
    recorded = made.recording.run
    assert [role for role, _ in engines.launches] == ["baseline", "trial 1", "trial 2"]
    assert recorded.preset.is_default
    assert recorded.defence.is_done
    assert "looked better" in recorded.defence.reason


def test_a_finalist_that_fails_is_out_and_the_others_go_on(tmp_path):
    def fails(flags, count):
        is_final = count > 10
        return EngineOutOfMemory("now") if is_final and flags.get("max-num-seqs") == 128 else None

    engines = FakeEngines(
        lambda f, u: like_all(f, u) * {128: 1.4, 64: 1.2}.get(f.get("max-num-seqs"), 1.0), fails=fails
    )
    made, _, _ = study(plan(trials=9), tmp_path / "run", engines, candidates(128, 64, *range(10, 17)))
    made.go_on(tmp_path)
    found = made.recording.run.defence
    out = next(one for one in found.finals if one.flags["max-num-seqs"] == 128)
    assert out.is_refused
    assert "out of memory" in out.reason
    assert made.recording.run.preset.flags["max-num-seqs"] == 64


def test_a_baseline_that_fails_in_the_finals_twice_ends_the_study(tmp_path):
    def fails(flags, count):
        return EngineCrashed("gone") if not flags and count > 1 else None

    made, _, _ = study(plan(trials=1), tmp_path / "run", FakeEngines(only_seqs_matter, fails=fails), candidates(128))
    with pytest.raises(EngineCrashed):
        made.go_on(tmp_path)


def test_a_removal_that_does_not_start_shows_that_the_flag_is_needed(tmp_path):
    def fails(flags, count):
        return EngineOutOfMemory("it needs a limit") if flags and "max-model-len" not in flags else None

    engines = FakeEngines(only_seqs_matter, fails=fails)
    made, _, _ = study(plan(trials=9), tmp_path / "run", engines, candidates(128, *range(10, 18)))
    made.go_on(tmp_path)
    recorded = made.recording.run
    assert "max-model-len" in recorded.preset.flags
    removal = next(one for one in recorded.defence.removals if one.name == "without max-model-len")
    assert removal.is_refused


def test_flags_that_do_nothing_alone_but_something_together_stay(tmp_path):
    def either(flags, users):
        helped = "max-num-batched-tokens" in flags or "max-model-len" in flags
        return like_all(flags, users) * (1.3 if helped else 1.0)

    made, _, _ = study(plan(trials=9), tmp_path / "run", FakeEngines(either), candidates(128, *range(10, 18)))
    made.go_on(tmp_path)
    recorded = made.recording.run
    assert recorded.defence.confirmation is not None
    assert not does_nothing(recorded.defence.confirmation.ratio)
    assert len(recorded.defence.dropped) == 1
    assert either(recorded.preset.flags, 1) > like_all({}, 1)


def test_the_presets_figures_are_those_of_the_flags_that_it_holds(tmp_path):
    made, _, _ = study(plan(trials=12), tmp_path / "run", FakeEngines(only_seqs_matter), candidates(*range(118, 129)))
    made.go_on(tmp_path)
    recorded, cells = made.recording.run, made.recording.folder.cells()
    defence, preset = recorded.defence, recorded.preset
    assert len(defence.dropped) == 2
    won = next(one.ratio for one in defence.finals if one.name == f"trial {defence.winner}")
    assert preset.ratio.value == pytest.approx(won.value * defence.confirmation.ratio.value)
    assert preset.ratio.high / preset.ratio.low > won.high / won.low
    figure = next(one for one in preset.figures if one.metric == "output_tok_s" and one.users == 100)
    mine = [cell for cell in cells if cell.role == "confirmation reduced" and cell.users == 100]
    mean = math.exp(sum(math.log(cell.output_tok_s.value) for cell in mine) / len(mine))
    assert figure.value.value == pytest.approx(mean)


def judged(name: str, ratio: float, *, margin: float = 1.02) -> Judged:
    found = Estimate(value=ratio, low=ratio / margin, high=ratio * margin, confidence=0.95, n=6, unit="ratio")
    return Judged(name=name, flags={}, ratio=found, launches=3)


@pytest.mark.parametrize(
    ("flags", "won", "lost", "winner", "dropped"),
    [
        ({"a": 1, "b": 2}, 1.3, 0.99, 3, ("b",)),
        ({"a": 1, "b": 2}, 1.05, 0.981, 3, ()),
        ({"b": 2}, 1.3, 0.99, None, ()),
    ],
)
def test_a_flag_is_left_out_only_where_what_is_left_is_surely_faster(tmp_path, flags, won, lost, winner, dropped):
    """Where nothing is left, that is the baseline, and no winner."""
    recording = recording_of(plan(), tmp_path / "run")
    trials = [Trial(number=number, flags=each, outcome=Outcome.MEASURED) for number, each in ((0, {}), (3, flags))]
    made = Defender(
        plan(), recording, None, None,
        trials=trials, ask=None, violations=lambda _: (), left_s=lambda: None, one_s=float,
    )  # fmt: skip
    state = Defence(
        round=1, trials=1, blocks=3, finalists=(3,), finals=(judged("trial 3", won),), winner=3, reason="trial 3 won.",
        removals=(judged("without b", lost),), dropped=("b",), flags={k: v for k, v in flags.items() if k != "b"},
    )  # fmt: skip
    found = made._reduced(state)
    assert (found.winner, found.dropped) == (winner, dropped)
    assert found.flags == ({} if winner is None else {k: v for k, v in flags.items() if k not in dropped})


def test_a_budget_without_room_for_finals_believes_nobody_and_says_so(tmp_path):
    engines = FakeEngines(only_seqs_matter)
    made, _, _ = study(plan(trials=None, budget_s=700.0), tmp_path / "run", engines, candidates(128))
    made.go_on(tmp_path)
    recorded = made.recording.run
    assert recorded.preset.is_default
    assert "no room" in recorded.defence.reason


# ---------------------------------------------------------------- answers


def with_fp8(count: int = 128) -> dict[str, object]:
    return {"max-num-seqs": count, "kv-cache-dtype": "fp8"}


def fp8_is_faster(flags, users):
    return like_all(flags, users) * (1.3 if "kv-cache-dtype" in flags else 1.0)


def answering(changed: int):
    """Answers to all questions, of which a KV cache of 8 bits changes so many."""

    def ask(engine):
        is_changed = "kv-cache-dtype" in engine.part.spec.flags
        return tuple(
            f"{n}{' differently' if is_changed and n < changed else ''}" for n in range(len(quality.QUESTIONS))
        )

    return ask


@pytest.mark.parametrize(("changed", "is_refused"), [(0, False), (4, False), (5, True), (32, True)])
def test_settings_whose_answers_differ_too_often_are_refused(tmp_path, changed, is_refused):
    engines = FakeEngines(fp8_is_faster)
    made, _, _ = study(plan(trials=1), tmp_path / "run", engines, [with_fp8()], ask=answering(changed))
    made.go_on(tmp_path)
    recorded = made.recording.run
    (final,) = recorded.defence.finals
    assert final.agreement.value == pytest.approx(1 - changed / 32)
    assert final.is_refused == is_refused
    assert recorded.preset.is_default == is_refused
    assert ("greedy answers" in final.reason) == is_refused
    finals = [role for role, _ in engines.launches if role == "final trial 1"]
    assert len(finals) == (1 if is_refused else 2), "what is refused is not launched again"


def test_settings_that_win_because_both_sides_fall_silent_are_refused(tmp_path):
    engines = FakeEngines(fp8_is_faster)
    made, _, _ = study(plan(trials=1), tmp_path / "run", engines, [with_fp8()], ask=lambda engine: ("",) * 32)
    made.go_on(tmp_path)
    (final,) = made.recording.run.defence.finals
    assert final.is_refused
    assert "answered none of the questions" in final.reason
    assert made.recording.run.preset.is_default


def test_settings_whose_answers_are_gone_when_they_are_judged_are_refused(tmp_path):
    """Every launch of the finals is on disk, so nobody asks again; nobody vouches for the answers either."""
    first = FakeEngines(fp8_is_faster, fails=lambda flags, count: Killed() if count == 7 else None)
    made, _, _ = study(plan(trials=1), tmp_path / "run", first, [with_fp8()], ask=answering(0))
    with pytest.raises(Killed):
        made.go_on(tmp_path)
    assert [role for role, _ in first.launches[2:6]] == ["final baseline", *["final trial 1"] * 2, "final baseline"]
    quality.path_of(tmp_path / "run", "trial 1").write_text("{")
    again, _, _ = study(
        plan(trials=1), tmp_path / "run", FakeEngines(fp8_is_faster), [with_fp8()], ask=answering(0),
        recording=reopened(tmp_path / "run"),
    )  # fmt: skip
    again.go_on(tmp_path)
    (final,) = again.recording.run.defence.finals
    assert final.reason == "its answers were not compared with the baseline's"
    assert again.recording.run.preset.is_default


def test_nobody_is_asked_where_no_answer_can_differ(tmp_path):
    asked = []
    made, _, _ = study(
        plan(trials=1), tmp_path / "run", FakeEngines(only_seqs_matter), candidates(128), ask=asked.append
    )
    made.go_on(tmp_path)
    assert asked == []
    assert made.recording.run.defence.finals[0].agreement is None


def test_a_simulation_says_that_it_cannot_tell_of_answers(tmp_path):
    made, _, _ = study(plan(trials=1), tmp_path / "run", FakeEngines(fp8_is_faster), [with_fp8()], ask=None)
    made.go_on(tmp_path)
    (final,) = made.recording.run.defence.finals
    assert final.agreement is None
    assert "simulation" in final.reason
    assert not final.is_refused


def test_there_are_32_different_questions():
    assert len(set(quality.QUESTIONS)) == 32


@pytest.mark.parametrize(
    ("flags", "is_changing"),
    [
        ({"max-num-seqs": 1}, False),
        ({"kv-cache-dtype": "fp8"}, True),
        ({"quantization": "fp8"}, True),
        ({"speculative-config": "{}"}, True),
        ({"speculative_config.method": "ngram"}, True),
        ({"enable-prefix-caching": False}, False),
        ({"enable-chunked-prefill": False}, True),
    ],
)
def test_which_flags_may_change_an_answer(flags, is_changing):
    assert quality.changes_answers(flags) == is_changing


def test_roles_of_the_stages_never_meet():
    roles = {rules.role(stage, name) for stage in ("finals", "ablation", "confirmation") for name in ("a", "winner")}
    assert len(roles) == 6


def test_launches_of_the_defence_survive_the_disk(tmp_path):
    made, _, _ = study(plan(trials=1), tmp_path / "run", FakeEngines(only_seqs_matter), candidates(128))
    made.go_on(tmp_path)
    known = RunFolder(tmp_path / "run").defence()
    assert {"finals", "ablation"} <= {one.stage for one in known}
    assert all(one.wall_s > 0 for one in known)
