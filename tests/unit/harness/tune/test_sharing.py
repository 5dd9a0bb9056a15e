"""Hosts that share a search and end at different times: each says whose the winner is, and nobody is silent."""

from pathlib import Path
from typing import Any

import msgspec

from harness.records import Estimate, Flags
from harness.search import Axis, Search, Space
from harness.store import RunFolder
from harness.tune.plan import Plan
from harness.tune.sharing import elsewhere
from harness.tune.start import worker_name
from harness.tune.study import Study
from harness.tune.world import World
from tests.unit.harness.tune.worlds import FakeEngines, Truth, like_all, plan, recording_of

FIGURE = Estimate(value=1.2, low=1.1, high=1.3, confidence=0.95, n=4, unit="ratio")
STEPS = (16, 32, 64, 128, 256, 512)


def speed(**by_seqs: float) -> Truth:
    """How much faster some numbers of sequences are."""
    known = {int(name.removeprefix("s")): factor for name, factor in by_seqs.items()}
    return lambda flags, users: like_all(flags, users) * known.get(int(flags.get("max-num-seqs", 0)), 1.0)


class Host:
    """A run of its own folder and engines in the one storage."""

    def __init__(self, folder: Path, name: str, truth: Truth, *, steps: tuple[int, ...], noise: float = 0.003) -> None:
        url = f"sqlite:///{folder / 'shared.db'}"
        self.results, self.steps, self.lines = folder / name, steps, list[str]()
        self.asked = plan(trials=len(STEPS), storage=url, study="shared", host=name, repeats=2)
        engines = FakeEngines(truth, launch_noise=noise, repeat_noise=noise)
        self.recording = recording_of(self.asked, self.results / name)
        world = World(
            clock=engines.clock,
            pause=engines.pause,
            launch=engines.launch,
            ask=None,
            make_search=self.search,
            storage=url,
        )
        self.engines, self.study = engines, Study(self.asked, self.recording, say=self.lines.append, world=world)

    def search(self, asked: Plan, *, folder: RunFolder, **_: Any) -> Search:
        """Over all places; this host is only given some of them, as if the others were still to come."""

        def others(flags: Flags) -> list[str]:
            return [] if flags["max-num-seqs"] in self.steps else ["not now"]

        return Search(
            storage=asked.storage, study=asked.study, space=Space(axes=(Axis(flag="max-num-seqs", steps=STEPS),)),
            seed=1, is_allowed=others, worker=worker_name(asked, folder),
        )  # fmt: skip

    def go_on(self) -> "Host":
        self.study.go_on(self.results)
        return self

    @property
    def notes(self) -> str:
        return " ".join(self.recording.run.notes)

    @property
    def name(self) -> str:
        return worker_name(self.asked, self.recording.folder)


def test_who_ends_later_with_less_learns_that_the_winner_was_defended(tmp_path):
    truth = speed(s64=1.3, s128=1.15)
    first = Host(tmp_path, "first", truth, steps=(16, 32, 64)).go_on()
    later = Host(tmp_path, "later", truth, steps=(128, 256, 512)).go_on()
    assert first.recording.run.preset.flags == {"max-num-seqs": 64}
    assert later.recording.run.defence is None
    assert f"found by another run, {first.name}" in later.notes
    assert "That run has ended, and defended 1.3" in later.notes
    assert any("found by another run" in line for line in later.lines)


def test_who_ends_later_with_more_defends_it_and_says_who_was_before(tmp_path):
    truth = speed(s64=1.15, s128=1.3)
    first = Host(tmp_path, "first", truth, steps=(16, 32, 64)).go_on()
    later = Host(tmp_path, "later", truth, steps=(128, 256, 512)).go_on()
    assert first.recording.run.preset.is_defended
    assert later.recording.run.preset.flags == {"max-num-seqs": 128}
    assert f"{first.name} defended 1.1" in later.notes
    assert "is better in the search" in later.notes


def test_a_winner_that_its_own_run_refuted_stands_in_nobodys_way(tmp_path):
    first = Host(tmp_path, "first", speed(), steps=(16, 32, 64)).go_on()
    assert first.recording.run.defence.winner is None
    search = first.search(first.asked, folder=first.recording.folder)
    best = search.best_elsewhere("somebody else")
    assert best is not None
    assert search.best_elsewhere("somebody else", refuted=[first.name]) is None
    later = Host(tmp_path, "later", speed(s128=1.15), steps=(128, 256, 512)).go_on()
    assert later.recording.run.preset.flags == {"max-num-seqs": 128}
    assert f"{first.name} kept the defaults" in later.notes


def test_of_two_that_are_equal_one_defends(tmp_path):
    one, other = (Host(tmp_path, name, speed(s64=1.2), steps=(64,)) for name in ("one", "other"))
    one.study._defaults.measure()
    search = one.search(one.asked, folder=one.recording.folder)
    candidate = search.ask()
    search.tell(candidate.ticket, (0.2,), constraints={})
    (trial,) = one.recording.folder.trials()
    equal = msgspec.structs.replace(
        trial, number=1, objectives={"balanced": msgspec.structs.replace(FIGURE, value=2.718281828459045**0.2)}
    )
    listed = [trial, equal]
    found = other.search(other.asked, folder=other.recording.folder)
    mine = elsewhere(search, one.name, listed, one.asked.objectives)
    theirs = elsewhere(found, other.name, listed, other.asked.objectives)
    assert (mine[0], theirs[0]) == (False, True)
    assert "defends it when it ends" in theirs[1]


def test_of_three_that_are_equal_the_one_whose_name_comes_first_defends(tmp_path):
    hosts = [Host(tmp_path, name, speed(), steps=(step,)) for name, step in (("a", 16), ("b", 32), ("c", 64))]
    searches = [host.search(host.asked, folder=host.recording.folder) for host in hosts]
    for search in searches:
        search.tell(search.ask().ticket, (0.2,), constraints={})
    found = [search.best_elsewhere(host.name) for host, search in zip(hosts, searches, strict=True)]
    assert [one[1] for one in found if one is not None] == [hosts[1].name, hosts[0].name, hosts[0].name]


def test_who_comes_when_all_candidates_are_taken_knows_that_none_is_left(tmp_path):
    Host(tmp_path, "first", speed(), steps=STEPS).go_on()
    later = Host(tmp_path, "later", speed(), steps=STEPS).go_on()
    assert [trial.number for trial in later.recording.folder.trials()] == [0]
    assert later.study._candidates.has_all
