"""TOML into records: what comes out, and what is said where it cannot."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.errors import ConfigInvalid, UsageError
from harness.records import ClosedLoop, Level, Replay

SCENARIO: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "workload": {"prompt_words": 100, "output_tokens": 50, "is_streamed": True},
    "load": {"users": [1, 5], "requests_per_user": 4, "min_s": 10, "max_s": 60},
}


def toml(path: Path, content: dict[str, Any] | str) -> Path:
    path.write_text(content if isinstance(content, str) else tomli_w.dumps(content), encoding="utf-8")
    return path


def changed(table: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """A copy with another value at a dotted key."""
    first, _, rest = key.partition(".")
    return {**table, first: changed(table.get(first, {}), rest, value) if rest else value}


def message_of(caught: pytest.ExceptionInfo[UsageError], *, path: Path, key: str) -> str:
    """The message, which must name file and key and come with a hint."""
    assert caught.value.message.startswith(f"{path}: ")
    assert key in caught.value.message.removeprefix(f"{path}: ")
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value.message


@pytest.mark.parametrize(
    ("message", "hint"), [("elsewhere.toml: a: no", "h"), ("f.toml: b: no", "h"), ("f.toml: a: no", "")]
)
def test_a_message_without_file_key_or_hint_is_noticed(message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        raise UsageError(message, hint=hint)
    with pytest.raises(AssertionError):
        message_of(caught, path=Path("f.toml"), key="a")


# ---------------------------------------------------------------- files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        config.read_toml(tmp_path / "none.toml")
    message_of(caught, path=tmp_path / "none.toml", key="cannot be read: No such file")


@pytest.mark.parametrize("content", [b"a = \n", b"a = '\xff'\n", b"[a\n"])
def test_what_is_no_toml_is_named_with_its_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigInvalid) as caught:
        config.read_toml(tmp_path / "bad.toml")
    message_of(caught, path=tmp_path / "bad.toml", key="not valid TOML")


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("sequental", ["sequential", "concurrent"], "did you mean 'sequential'? known: concurrent, sequential"),
        ("RTX4090", ["rtx4090", "cpu"], "did you mean 'rtx4090'? known: cpu, rtx4090"),
        ("qwen2.5-1.5b", ["Qwen2.5-1.5B", "cpu"], "did you mean 'Qwen2.5-1.5B'? known: Qwen2.5-1.5B, cpu"),
        ("zzz", ["sequential", "concurrent"], "known: concurrent, sequential"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest_and_the_list(name: str, known: list[str], hint: str) -> None:
    error = config.unknown_name("thing", name, known)
    assert error.message == f"no thing is called {name!r}"
    assert error.hint == hint


# ---------------------------------------------------------------- cards


def test_every_published_card_is_readable_and_has_ladders_that_climb() -> None:
    profiles = config.gpu_profiles()
    assert {"rtx4090", "h100", "cpu"} <= set(profiles)
    for name, profile in profiles.items():
        assert profile.name == name
        for ladder in (
            profile.search.max_num_batched_tokens,
            profile.search.max_num_seqs,
            profile.search.max_model_len,
            profile.search.users,
        ):
            assert list(ladder) == sorted(set(ladder))
            assert ladder[0] > 0
        assert profile.search.max_num_batched_tokens[0] >= profile.search.max_num_seqs[-1]
        assert (profile.memory_bytes is None) == profile.is_cpu


def test_no_two_published_cards_answer_to_one_name() -> None:
    names = [name.casefold() for profile in config.gpu_profiles().values() for name in profile.nvml_names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("reported", "profile"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("nvidia geforce rtx 4090", "rtx4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
    ],
)
def test_a_card_is_known_by_the_name_that_the_driver_reports(reported: str, profile: str) -> None:
    assert config.profile_of_card(reported).name == profile


@pytest.mark.parametrize("reported", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 PCIe", "Tesla T4", ""])
def test_a_card_that_only_sounds_alike_is_another_card(reported: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.profile_of_card(reported)
    assert repr(reported) in caught.value.message
    assert "rtx4090" in caught.value.hint


def test_a_card_by_name_and_the_answer_to_a_typing_mistake() -> None:
    assert config.gpu_profile("rtx4090").title == "NVIDIA GeForce RTX 4090, 24 GB"
    with pytest.raises(UsageError, match="no GPU profile is called 'rtx4080'") as caught:
        config.gpu_profile("rtx4080")
    assert "did you mean 'rtx4090'?" in caught.value.hint


CARD: dict[str, Any] = {
    "title": "A card",
    "default_model": "m",
    "search": {"max_num_batched_tokens": [512], "max_num_seqs": [16], "max_model_len": [512]},
}


@pytest.mark.parametrize(
    ("card", "key"),
    [
        (changed(CARD, "search.max_num_seqs", ["16"]), "mycard.search.max_num_seqs[0]"),
        (changed(CARD, "search.max_seqs", [16]), "mycard.search: Object contains unknown field `max_seqs`"),
        (changed(CARD, "colour", "green"), "mycard: Object contains unknown field `colour`"),
        ({"title": "no more"}, "mycard: Object missing required field `default_model`"),
        (3, "mycard: Expected `object`, got `int`"),
    ],
)
def test_a_mistake_in_a_card_is_told_with_the_card_and_the_key(tmp_path: Path, card: Any, key: str) -> None:
    path = toml(tmp_path / "gpus.toml", {"good": CARD, "mycard": card})
    with pytest.raises(ConfigInvalid) as caught:
        config.gpu_profiles(path)
    message_of(caught, path=path, key=key)


def test_a_card_of_the_users_own_is_read(tmp_path: Path) -> None:
    found = config.gpu_profiles(toml(tmp_path / "gpus.toml", {"mine": CARD}))
    assert found["mine"].search.max_num_batched_tokens == (512,)
    assert found["mine"].memory_bytes is None


# ---------------------------------------------------------------- targets


def test_the_published_targets_are_those_of_the_planning_document() -> None:
    rows = {row.name: row for row in config.targets()}
    assert {name: (row.done_ratio, row.target_ratio, row.stretch_ratio) for name, row in rows.items()} == {
        "sequential": (2.0, 2.0, 5.0),
        "concurrent-5": (1.5, 2.0, None),
        "concurrent-50": (1.5, 2.0, None),
        "streaming": (1.5, 2.0, None),
    }
    assert {name: (row.then_s, row.absolute_s) for name, row in rows.items()} == {
        "sequential": (0.232, 0.2),
        "concurrent-5": (7.57, 3.0),
        "concurrent-50": (None, None),
        "streaming": (0.617, 0.5),
    }


def test_every_published_target_is_of_a_published_scenario_card_and_level() -> None:
    profiles = config.gpu_profiles()
    for row in config.targets():
        assert Level(users=row.users) in config.scenario(row.scenario, is_cpu=False).levels
        assert row.gpu is None or row.gpu in profiles


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("[[targets]]\nname = 'x'\n", "top level: Object contains unknown field `targets`"),
        ("[[target]]\nname = 3\n", "target[0].name: Expected `str`"),
        ("target = 3\n", "target: Expected `array`"),
        ("", "top level: Object missing required field `target`"),
    ],
)
def test_a_mistake_in_the_targets_is_told_and_never_no_targets(tmp_path: Path, content: str, key: str) -> None:
    path = toml(tmp_path / "targets.toml", content)
    with pytest.raises(ConfigInvalid) as caught:
        config.targets(path)
    message_of(caught, path=path, key=key)


# ---------------------------------------------------------------- scenarios


@pytest.mark.parametrize("is_cpu", [False, True])
@pytest.mark.parametrize("name", sorted(path.stem for path in config.scenario_folder().glob("*.toml")))
def test_every_published_scenario_is_readable(name: str, is_cpu: bool) -> None:
    assert config.scenario(name, is_cpu=is_cpu).name == name


def test_an_unknown_scenario_is_answered_with_the_closest() -> None:
    with pytest.raises(UsageError, match="no scenario is called 'streeming'") as caught:
        config.scenario("streeming", is_cpu=False)
    assert "did you mean 'streaming'?" in caught.value.hint


def test_the_cpu_table_replaces_keys_and_leaves_the_others(tmp_path: Path) -> None:
    small = {"workload": {"output_tokens": 8}, "load": {"min_s": 1, "users": [1]}}
    path = toml(tmp_path / "mine.toml", {**SCENARIO, "cpu": small})
    on_gpu, on_cpu = (config.scenario(str(path), is_cpu=is_cpu) for is_cpu in (False, True))
    assert on_gpu == msgspec.convert(changed(SCENARIO, "load.kind", "closed"), type(on_gpu))
    assert (on_cpu.workload.output_tokens, on_cpu.workload.prompt_words) == (8, 100)
    assert isinstance(on_cpu.load, ClosedLoop)
    assert (on_cpu.load.min_s, on_cpu.load.users, on_cpu.load.max_s) == (1, (1,), 60)


def test_a_scenario_without_a_cpu_table_is_the_same_everywhere(tmp_path: Path) -> None:
    path = str(toml(tmp_path / "mine.toml", SCENARIO))
    assert config.scenario(path, is_cpu=True) == config.scenario(path, is_cpu=False)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("load.users", [], "load.users"),
        ("load.users", [0, 5], "load.users"),
        ("load.users", "5", "load.users"),
        ("load.requests_per_user", 0, "requests_per_user"),
        ("load.min_s", -1, "min_s"),
        ("load.max_s", 5, "max_s"),  # under min_s
        ("load.min_sec", 5, "load: Object contains unknown field `min_sec`"),
        ("load.warmup_max_s", -1, "load.warmup_max_s"),
        ("load.ramp_s", math.nan, "load.ramp_s"),
        ("load.max_s", math.inf, "load.max_s"),
        ("load.request_timeout_s", 0, "load.request_timeout_s"),
        ("load.kind", "opened", "load.kind: Invalid value 'opened'"),
        ("load", 3, "load: "),
        ("workload.turns", 0, "workload.turns"),
        ("workload.shared_prefix_words", -1, "workload.shared_prefix_words"),
        ("workload.output_tokens", 0, "output_tokens"),
        ("workload.prompt_words", 0, "prompt_words"),
        ("workload.output_tokens", 1.5, "workload.output_tokens"),
        ("workload.sampling", {"temprature": 1.0}, "workload.sampling: Object contains unknown field `temprature`"),
        ("titel", "x", "unknown field `titel`"),
        ("cpu", 3, "cpu: must be a table"),
    ],
)
def test_a_mistake_in_a_scenario_is_told_with_file_and_key(tmp_path: Path, key: str, value: object, named: str) -> None:
    path = toml(tmp_path / "mine.toml", changed(SCENARIO, key, value))
    with pytest.raises(ConfigInvalid) as caught:
        config.scenario(str(path), is_cpu=False)
    message_of(caught, path=path, key=named)


def test_a_mistake_that_only_the_cpu_table_brings_is_told(tmp_path: Path) -> None:
    path = toml(tmp_path / "mine.toml", {**SCENARIO, "cpu": {"load": {"max_s": 1}}})
    with pytest.raises(ConfigInvalid) as caught:
        config.scenario(str(path), is_cpu=True)
    message_of(caught, path=path, key="max_s")


OPEN: dict[str, Any] = {**SCENARIO, "load": {"kind": "open", "rates_per_s": [1, 2.5], "duration_s": 60}}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("load.rates_per_s", [], "load.rates_per_s"),
        ("load.rates_per_s", [1, 0], "load.rates_per_s"),
        ("load.rates_per_s", [math.inf], "load.rates_per_s"),
        ("load.arrivals", "bursts", "load.arrivals: Invalid enum value 'bursts'"),
        ("load.duration_s", 0, "load.duration_s"),
        ("load.warmup_s", -1, "load.warmup_s"),
        ("load.max_in_flight", 0, "load.max_in_flight"),
        ("load.users", [1], "load: Object contains unknown field `users`"),
        ("workload.turns", 2, "workload.turns"),
    ],
)
def test_a_mistake_in_an_open_loop_is_told_with_file_and_key(
    tmp_path: Path, key: str, value: object, named: str
) -> None:
    assert config.scenario(str(toml(tmp_path / "good.toml", OPEN)), is_cpu=False).levels[1].name == "2.5rps"
    path = toml(tmp_path / "mine.toml", changed(OPEN, key, value))
    with pytest.raises(ConfigInvalid) as caught:
        config.scenario(str(path), is_cpu=False)
    message_of(caught, path=path, key=named)


# ---------------------------------------------------------------- traces


LINE = {"at_s": 0.5, "prompt_words": 3, "output_tokens": 4}


def replay(folder: Path, *lines: dict[str, Any] | bytes, **of_load: object) -> Path:
    """A scenario with the trace beside it."""
    written = [line if isinstance(line, bytes) else msgspec.json.encode(line) for line in lines]
    (folder / "traces").mkdir()
    (folder / "traces" / "mine.jsonl").write_bytes(b"\n".join(written))
    load = {"kind": "replay", "trace": "traces/mine.jsonl"} | of_load
    return toml(folder / "mine.toml", {**SCENARIO, "load": load})


def test_a_trace_lies_where_the_scenario_says_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = replay(tmp_path, LINE, b"", {**LINE, "at_s": 0.25, "session": "a"}, b"")
    monkeypatch.chdir(tmp_path.parent)
    found = config.scenario(str(path.relative_to(tmp_path.parent)), is_cpu=False)
    assert isinstance(found.load, Replay)
    assert found.load.trace == str(tmp_path / "traces" / "mine.jsonl")
    lines = config.trace(Path(found.load.trace))
    assert [(line.at_s, line.session) for line in lines] == [(0.5, None), (0.25, "a")]
    assert [level.name for level in found.levels] == ["replay"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({**LINE, "at_s": -1}, "at_s >= 0"),
        ({**LINE, "prompt_words": 0}, "prompt_words and output_tokens from 1 to"),
        ({**LINE, "output_tokens": 0}, "prompt_words and output_tokens from 1 to"),
        ({**LINE, "tokens": 1}, "unknown field `tokens`"),
        ({"at_s": 1}, "missing required field `prompt_words`"),
        ({**LINE, "at_s": "1"}, "Expected `float`, got `str` - at `$.at_s`"),
        (b"{", "truncated"),
        (b'{"at_s": \xff}', "invalid"),
    ],
)
def test_a_mistake_in_a_trace_is_told_with_file_and_line(
    tmp_path: Path, bad: dict[str, Any] | bytes, words: str
) -> None:
    path = replay(tmp_path, LINE, b"", bad)
    with pytest.raises(ConfigInvalid) as caught:
        config.scenario(str(path), is_cpu=False)
    assert caught.value.message.startswith(f"{tmp_path / 'traces' / 'mine.jsonl'}:3: ")
    assert words in caught.value.message
    assert caught.value.hint


def test_a_trace_that_is_empty_or_missing_is_told(tmp_path: Path) -> None:
    path = replay(tmp_path, b"")
    with pytest.raises(ConfigInvalid, match=r"mine\.jsonl: has no requests"):
        config.scenario(str(path), is_cpu=False)
    (tmp_path / "traces" / "mine.jsonl").unlink()
    with pytest.raises(ConfigInvalid, match=r"mine\.jsonl: cannot be read: No such file"):
        config.scenario(str(path), is_cpu=False)


@pytest.mark.parametrize(("key", "value"), [("speed", 0), ("max_in_flight", 0), ("request_timeout_s", -1)])
def test_a_mistake_in_a_replay_is_told_with_file_and_key(tmp_path: Path, key: str, value: object) -> None:
    path = replay(tmp_path, LINE, **{key: value})
    with pytest.raises(ConfigInvalid) as caught:
        config.scenario(str(path), is_cpu=False)
    message_of(caught, path=path, key=f"load.{key}")


def test_the_published_trace_says_that_it_is_synthetic_and_has_conversations() -> None:
    load = config.scenario("replay", is_cpu=False).load
    assert isinstance(load, Replay)
    lines = config.trace(Path(load.trace))
    assert len(lines) == 40
    assert len({line.session for line in lines if line.session is not None}) > 2
    assert "synthetic" in (Path(load.trace).parent / "README.md").read_text()


tables = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(tables, tables)
def test_laying_a_table_over_another_keeps_what_it_does_not_name(base: dict[str, Any], over: dict[str, Any]) -> None:
    both = config.merged(base, over)
    assert set(both) == set(base) | set(over)
    assert config.merged(both, over) == both
    assert config.merged(base, {}) == base
    assert config.merged({}, over) == over
    for key in set(base) - set(over):
        assert both[key] == base[key]


# ---------------------------------------------------------------- what is not there


def test_the_folder_of_scenarios_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed"):
        config.scenario_folder()
