"""What better means: objectives from words, ratios, several at once, limits that nobody keeps."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.records import Cell, CellState, ClientHealth, Estimate, Level, Outcome, RequestRecord, Trial
from harness.store import RunFolder
from harness.tune import objectives
from harness.tune.objectives import Scores, beats, front, objectives_named, telling_order, together, unmet_note
from tests.unit.harness.tune.worlds import SCENARIO


@pytest.mark.parametrize(
    ("name", "metric", "levels"),
    [
        ("balanced", "output_tok_s", (1, 10, 50)),
        ("throughput", "output_tok_s", (50,)),
        ("latency", "e2e_s.p50", (1,)),
        ("latency:ttft:p95", "ttft_s.p95", (1,)),
        ("latency:itl", "itl_s.p50", (1,)),
    ],
)
def test_an_objective_is_one_metric_at_some_levels(name, metric, levels):
    (found,) = objectives_named(name, [50, 1, 10])
    assert (found.metric, found.levels) == (metric, levels)


@pytest.mark.parametrize(
    ("text", "slos", "said"),
    [
        ("fastest", (), "balanced"),
        ("latency:ttft:p42", (), "p95"),
        ("latency:speed:p50", (), "ttft"),
        ("throughput:p50", (), "latency:ttft:p95"),
        ("throughput,throughput", (), "once"),
        ("goodput", (), "--slo"),
        ("throughput", ("ttft:p95<500ms",), "--objective goodput"),
        ("goodput", ("ttft:p95<__import__('os')",), "500ms"),
    ],
)
def test_what_is_no_objective_is_refused_with_what_would_be(text, slos, said):
    with pytest.raises(UsageError) as refused:
        objectives_named(text, [1, 10], slos=slos)
    assert said in refused.value.hint + refused.value.message


def test_goodput_knows_its_limits():
    (found,) = objectives_named("goodput", [1, 10], slos=["ttft:p95<500ms", "e2e:p99<=3s"])
    assert found.levels == (10,)
    assert [limit.limit_s for limit in found.slos] == [0.5, 3.0]


def test_the_loads_of_the_objectives_come_first_and_the_highest_of_them_before_all():
    several = objectives_named("throughput,latency", [1, 10, 50])
    assert [level.users for level in telling_order(several, [1, 10, 50])] == [50, 1, 10]
    assert [level.users for level in telling_order(objectives_named("balanced", [1, 10, 50]), [1, 10, 50])] == [
        50,
        10,
        1,
    ]


def estimate(value: float, spread: float = 1.05) -> Estimate:
    return Estimate(value=value, low=value / spread, high=value * spread, confidence=0.95, n=6, unit="ratio")


def trial(number: int, **values: float) -> Trial:
    ratios = {name: estimate(value) for name, value in values.items()}
    return Trial(number=number, flags={}, outcome=Outcome.MEASURED, objectives=ratios)


def test_the_front_holds_what_nothing_beats_and_the_baseline_is_one_in_all():
    trials = [trial(0), trial(1, a=1.2, b=0.9), trial(2, a=1.1, b=0.8), trial(3, a=0.9, b=0.9), trial(4, a=1.2, b=0.95)]
    assert front(trials, ["a", "b"]) == (0, 4)


def test_a_trial_without_one_of_the_figures_is_on_no_front():
    assert front([trial(0), trial(1, a=9.0)], ["a", "b"]) == (0,)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=8))
def test_every_trial_is_on_the_front_or_beaten_by_one_that_is(points):
    trials = [trial(0), *(trial(number, a=a, b=b) for number, (a, b) in enumerate(points, start=1))]
    found = front(trials, ["a", "b"])
    place = {0: (1.0, 1.0)} | dict(enumerate(points, start=1))
    for number, point in place.items():
        assert (number in found) != any(beats(place[other], point) for other in found)


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=4))
def test_several_ratios_together_lie_between_them(values):
    found = together([estimate(value) for value in values])
    assert min(values) * 0.999 <= found.value <= max(values) * 1.001
    assert found.low <= found.value <= found.high


def test_limits_that_nobody_kept_are_said_with_the_nearest():
    (one,) = objectives_named("goodput", [10], slos=["ttft:p95<500ms"])
    share = [Estimate(value=v, low=v, high=v, confidence=0.95, n=100, unit="share") for v in (0.2, 0.81, 0.97)]
    tried = [Trial(number=n, flags={}, outcome=Outcome.MEASURED, kept={"ttft:p95<500ms": share[n]}) for n in range(3)]
    assert unmet_note(tried, one) == ""
    said = unmet_note(tried[:2], one)
    assert "trial 1" in said
    assert "81.0% kept ttft:p95<500ms" in said
    assert said.startswith("No settings kept")


def test_users_in_words():
    assert objectives.users_text((1,)) == "1 user"
    assert objectives.users_text((1, 5, 10)) == "1, 5 and 10 users"


# ---------------------------------------------------------------- goodput


def answers(ttft_s: float, *, late: int = 0, count: int = 40, users: int = 4) -> list[RequestRecord]:
    """Of so many users, each one answer a second after the other, of which the first `late` began after 0.9 s."""
    return [
        RequestRecord(
            user=user,
            index=index,
            is_warmup=False,
            sent_s=float(index),
            end_s=index + 1.0,
            chunks_s=tuple(index + (0.9 if index < late else ttft_s) + part / 100 for part in range(8)),
            prompt_tokens=20,
            output_tokens=8,
        )
        for index in range(count)
        for user in range(users)
    ]


def good_cell(folder: RunFolder, name: str, records: list[RequestRecord], *, repeat: int) -> Cell:
    health = ClientHealth(
        cpu_ratio=0.1, lag_p50_s=0.0, lag_p99_s=0.0, started_s=0.0, stopped_s=40.0, ended_s=40.0, is_steady=True,
        requests=len(records),
    )  # fmt: skip
    body = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    (folder.path / "requests" / f"{name}-{repeat}.jsonl").write_bytes(body)
    return Cell(
        engine="vllm", title="", role=name, model="m", scenario="small", users=4, repeat=repeat, client=health,
        state=CellState.MEASURED, window_s=40.0, requests_file=f"requests/{name}-{repeat}.jsonl",
    )  # fmt: skip


@pytest.fixture
def good(tmp_path):
    """Cells with every request in time, with a quarter too late, and with none in time."""
    folder = RunFolder(tmp_path / "run").create()
    made = {
        name: [good_cell(folder, name, answers(ttft_s, late=late), repeat=repeat) for repeat in (1, 2)]
        for name, ttft_s, late in (("all", 0.1, 0), ("most", 0.1, 10), ("none", 0.8, 0))
    }
    scenario = SCENARIO.at([Level(users=4)])
    return Scores(folder, scenario), made


def test_goodput_is_what_kept_every_limit(good):
    scores, cells = good
    (one,) = objectives_named("goodput", [4], slos=["ttft:p95<500ms"])
    ratio = scores.ratio(cells["most"], cells["all"], one)
    assert ratio.value == pytest.approx(4 / 3, rel=0.05)
    assert scores.kept(cells["all"], one)["ttft:p95<500ms"].value == 1.0
    assert scores.kept(cells["most"], one)["ttft:p95<500ms"].value == pytest.approx(0.75, abs=0.02)


def test_settings_that_keep_no_limit_can_be_compared_all_the_same(good):
    scores, cells = good
    (one,) = objectives_named("goodput", [4], slos=["ttft:p95<500ms"])
    assert scores.ratio(cells["none"], cells["none"], one) is None, "nothing is known of how far they are from it"
    assert scores.is_none_kept(cells["none"], one)
    assert not scores.is_none_kept([*cells["none"], *cells["most"]], one)
    assert scores.ratio(cells["none"], cells["all"], one).value > 100
    assert scores.kept(cells["none"], one)["ttft:p95<500ms"].value == 0.0


def test_a_cell_that_does_not_count_has_no_figure(good):
    scores, cells = good
    (one,) = objectives_named("goodput", [4], slos=["ttft:p95<500ms"])
    invalid = msgspec.structs.replace(cells["all"][0], state=CellState.INVALID)
    assert scores.logarithm(invalid, one) is None
    assert scores.ratio(cells["most"], [invalid, invalid], one) is None
