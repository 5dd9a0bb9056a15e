"""Presets: found, written so that a person can read them, read back whole, and refused where they are for another."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from harness import config, presets
from harness.errors import ConfigInvalid, UsageError
from harness.presets import Found, PresetMismatch, Use
from harness.records import Cell, CellState, Estimate, Preset, PresetFigure

WON = Estimate(value=1.32, low=1.2, high=1.5, confidence=0.95, n=30, unit="ratio")
FIGURE = PresetFigure(
    scenario="concurrent", users=50, metric="output_tok_s", ratio=WON,
    value=Estimate(value=1_000, low=990, high=1_010, confidence=0.95, n=4, unit="tok/s"),
)  # fmt: skip
OLD = """\
gpu = "rtx4090"
model = "qwen2.5-1.5b"
is_default = false
objective = "balanced: geometric mean of ratios"
vllm_version = "0.32.0"
gpu_title = "NVIDIA GeForce RTX 4090"
run = "20261122-tune"
created_utc = "2026-11-22T10:00:00+00:00"

[flags]
max-num-seqs = 128

[ratio]
value = 1.32
low = 1.2
high = 1.5
confidence = 0.95
n = 30
unit = "ratio"
"""
"""As harness 0.1 wrote it."""


def preset(**changes: Any) -> Preset:
    usual = {
        "gpu": "rtx4090", "model": "qwen2.5-1.5b", "is_default": False, "ratio": WON, "figures": (FIGURE,),
        "flags": {"max-num-seqs": 128, "enforce-eager": True, "dtype": "auto", "gpu-memory-utilization": 0.9},
        "objective": 'balanced: "geometric" mean\nof ratios', "vllm_version": "0.32.1", "driver": "570.86",
        "vllm_versions": ">=0.32,<0.33", "gpu_title": "NVIDIA GeForce RTX 4090", "run": "20261122-tune",
        "created_utc": "2026-11-22T10:00:00+00:00", "harness_version": "0.2", "precision": "bf16",
        "slos": ("ttft:p95<500ms",),
    }  # fmt: skip
    return Preset(**{**usual, **changes})


# ---------------------------------------------------------------- as a file


@pytest.mark.parametrize(
    "one", [preset(), preset(ratio=None, is_default=True, flags={}, figures=()), preset(is_simulated=True)]
)
def test_a_preset_is_read_as_it_was_written(tmp_path: Path, one: Preset) -> None:
    path = presets.preset_path(tmp_path, gpu="rtx4090", model="qwen2.5-1.5b")
    presets.write_preset(one, path)
    assert presets.read_preset(path) == one
    assert [file.name for file in path.parent.iterdir()] == ["qwen2.5-1.5b.toml"]  # no draft stays


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.one_of(
    TEXTS.filter(lambda text: "\0" not in text), st.booleans(), st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip


@given(title=TEXTS, objective=TEXTS, flags=st.dictionaries(st.from_regex(r"[a-z]+(-[a-z]+)?", fullmatch=True), VALUES))
def test_nothing_that_stands_in_a_preset_can_break_its_file(title: str, objective: str, flags: dict[str, Any]) -> None:
    one = preset(gpu_title=title, objective=objective, flags=flags)
    assert msgspec.convert(tomllib.loads(presets.as_toml(one)), Preset) == one


def test_the_file_explains_itself() -> None:
    text = presets.as_toml(preset())
    assert text.startswith("# The fastest settings found for qwen2.5-1.5b on NVIDIA GeForce RTX 4090.\n")
    assert "# Measured by load" in text
    assert "[flags]\nmax-num-seqs = 128\n" in text
    assert "rate_per_s" not in text  # what is not known is not there
    assert len([line for line in text.splitlines() if line.startswith("#")]) == 5


def test_a_simulated_preset_says_so_wherever_a_figure_is() -> None:
    text = presets.as_toml(preset(is_simulated=True))
    assert "SIMULATED" in text.splitlines()[0]
    assert "# Simulated: the objective" in text
    assert "# Simulated by load" in text
    assert "Measured" not in text


def test_a_preset_of_an_early_version_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(OLD)
    found = presets.read_preset(tmp_path / "p.toml")
    assert found.flags == {"max-num-seqs": 128}
    assert presets.holds_for(found, "0.32.4")
    assert not presets.holds_for(found, "0.33.0")


def test_a_preset_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    presets.write_preset(preset(), tmp_path / "p.toml")
    presets.write_preset(preset(is_default=True), tmp_path / "p.toml")
    assert presets.read_preset(tmp_path / "p.toml").is_default


def test_the_types_of_flags_survive(tmp_path: Path) -> None:
    presets.write_preset(preset(), tmp_path / "p.toml")
    kinds = {name: type(value) for name, value in presets.read_preset(tmp_path / "p.toml").flags.items()}
    assert kinds == {"max-num-seqs": int, "enforce-eager": bool, "dtype": str, "gpu-memory-utilization": float}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"ratio": {**msgspec.to_builtins(WON), "value": "fast"}}, "ratio.value"),
        ({"ratio": {**msgspec.to_builtins(WON), "value": 3.0}}, "ratio"),
        ({"flags": {"max-num-seqs": [1]}}, "flags"),
        ({"flags": {"x; rm -rf /": 1}}, "flags.x; rm -rf /"),
        ({"flags": {"": 1}}, "flags."),
        ({"flags": {"host": "0.0.0.0"}}, "flags.host"),
        ({"flags": {"api_key": "k"}}, "flags.api_key"),
        ({"flags": {"dtype": "a\0b"}}, "flags.dtype"),
        ({"flags": {"gpu-memory-utilization": float("nan")}}, "flags.gpu-memory-utilization"),
        ({"vllm_versions": "newer"}, "vllm_versions"),
        ({"flags": {"a\nhint: b": 1}}, "flags.a hint: b: is no name"),
        ({"flags": {"trust-remote-code": True}}, "flags.trust-remote-code"),
        ({"flags": {"middleware": "os.system"}}, "flags.middleware"),
        ({"flags": {"hos": "0.0.0.0"}}, "flags.hos"),
        ({"flags": {"max-num-seqs": 64, "max_num_seqs": 3}}, "is the same flag as max-num-seqs"),
        ({"flags": {"enable-prefix-caching": True, "no-enable-prefix-caching": True}}, "is the same flag as"),
        ({"flags": {"max-num-seqs": -64}}, "flags.max-num-seqs: is -64"),
        ({"ratio": {**msgspec.to_builtins(WON), "low": -2.0}}, "ratio: is no figure"),
        ({"ratio": {**msgspec.to_builtins(WON), "n": -3}}, "ratio: is no figure"),
        ({"ratio": {**msgspec.to_builtins(WON), "confidence": 95.0}}, "ratio: is no figure"),
        ({"run": "../../../etc"}, "run: '../../../etc' is no name"),
        ({"run": "a" * 5000}, "is no name"),
        ({"gpu": "$(reboot)"}, "gpu: '$(reboot)' is no name"),
        ({"model": "a\nb"}, "model: 'a\\nb' is no name"),
        ({"vllm_version": "0.32\x1b[2J"}, "vllm_version"),
        ({"model": 7}, "model"),
        ({"speed": 7}, "speed"),
    ],
)
def test_a_mistake_in_a_preset_is_told_with_file_and_key(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    raw = presets.without_unknown(msgspec.to_builtins(preset())) | change
    path = tmp_path / "p.toml"
    path.write_text(tomli_w.dumps(raw))
    with pytest.raises(ConfigInvalid) as caught:
        presets.read_preset(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert key in caught.value.message
    assert caught.value.hint


def test_what_is_as_long_as_it_may_be_is_no_mistake(tmp_path: Path) -> None:
    one = preset(flags={"max-model-len": -1, "compilation-config.mode": 3, "model-loader-extra-config": "{}"})
    presets.write_preset(one, tmp_path / "p.toml")
    assert presets.read_preset(tmp_path / "p.toml") == one


@pytest.mark.parametrize("content", [b"gpu = ", b"\xff", b"", OLD.encode()[:200], b"a = " + b"[" * 5000 + b"]" * 5000])
def test_half_a_preset_is_told_with_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.toml").write_bytes(content)
    with pytest.raises(ConfigInvalid, match=r"p\.toml: "):
        presets.read_preset(tmp_path / "p.toml")


# ---------------------------------------------------------------- where they lie


def test_the_users_own_preset_is_found_and_none_where_there_is_none(tmp_path: Path) -> None:
    assert presets.find_preset(tmp_path, gpu="no-such-card", model="m") is None
    path = presets.preset_path(tmp_path, gpu="no-such-card", model="m")
    presets.write_preset(preset(), path)
    assert presets.find_preset(tmp_path, gpu="no-such-card", model="m") == (path, preset())


@pytest.mark.parametrize("wanted", ["rtx4090", "rtx4090/qwen2.5-1.5b", "FILE"])
def test_a_preset_is_named_by_card_by_model_and_by_file(tmp_path: Path, wanted: str) -> None:
    path = presets.preset_path(tmp_path, gpu="rtx4090", model="qwen2.5-1.5b")
    presets.write_preset(preset(), path)
    found = presets.named(str(path) if wanted == "FILE" else wanted, results=tmp_path, model=None)
    assert found == Found(preset=preset(), origin=str(path), tuned_in=None)


def test_the_run_that_found_it_is_there_where_it_is_still_kept(tmp_path: Path) -> None:
    path = presets.preset_path(tmp_path, gpu="rtx4090", model="qwen2.5-1.5b")
    presets.write_preset(preset(), path)
    (tmp_path / "20261122-tune").mkdir()
    (tmp_path / "20261122-tune" / "run.json").touch()
    assert presets.named("rtx4090", results=tmp_path, model=None).tuned_in == tmp_path / "20261122-tune"


def test_what_is_not_there_is_told_with_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no preset of rtx4090 for llama-3.1-8b") as caught:
        presets.named("rtx4090/llama-3.1-8b", results=tmp_path, model=None)
    assert "harness tune --gpu rtx4090 --model llama-3.1-8b" in caught.value.hint
    with pytest.raises(UsageError, match="no run called"):
        presets.named("nothing", results=tmp_path, model=None)


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("found_with", "valid"),
    [
        ("0.32.0", ">=0.32,<0.33"),
        ("0.32.1+cpu", ">=0.32,<0.33"),
        ("1.0.3", ">=1.0,<1.1"),
        ("0.33.0rc1", ">=0.33.0rc1,<0.34"),
        ("0.33.0.dev12+gabc", ">=0.33.0.dev12,<0.34"),
        ("nightly", ""),
    ],
)
def test_settings_hold_for_the_minor_version_they_were_found_with(found_with: str, valid: str) -> None:
    assert presets.expiry(found_with) == valid
    assert presets.holds_for(preset(vllm_version=found_with, vllm_versions=valid), found_with)


@pytest.mark.parametrize(
    ("here", "holds"),
    [("0.32.0", True), ("0.32.9+cpu", True), ("0.33.0", False), ("0.33.0rc1", False), ("0.31.9", False), ("x", False)],
)
def test_another_minor_version_is_another_vllm(here: str, holds: bool) -> None:
    assert presets.holds_for(preset(), here) is holds


# ---------------------------------------------------------------- whether it may be used

HERE = Use(gpu="rtx4090", model="qwen2.5-1.5b", vllm_version="0.32.0")


def found(one: Preset) -> Found:
    return Found(preset=one, origin="p.toml", tuned_in=None)


def test_what_fits_is_taken_without_a_word() -> None:
    said: list[str] = []
    assert presets.checked(found(preset()), HERE, is_any=False, say=said.append) == ()
    assert not said


def test_what_is_not_known_is_not_judged() -> None:
    nothing = Use(gpu=None, model=None, vllm_version=None)
    assert presets.mismatches(preset(), nothing) == []


@pytest.mark.parametrize(
    ("one", "use", "said"),
    [
        (preset(gpu="h100"), HERE, "found on h100, this is rtx4090"),
        (preset(model="llama-3.1-8b"), HERE, "found for the model llama-3.1-8b, this is qwen2.5-1.5b"),
        (preset(), Use(gpu=None, model=None, vllm_version="0.33.0"), "valid for >=0.32,<0.33, this is 0.33.0"),
        (preset(is_simulated=True), HERE, "by a simulation"),
    ],
)
def test_what_does_not_fit_is_refused_or_noted_but_never_silent(one: Preset, use: Use, said: str) -> None:
    heard: list[str] = []
    with pytest.raises(PresetMismatch, match=said) as caught:
        presets.checked(found(one), use, is_any=False, say=heard.append, without="--defaults")
    assert caught.value.exit_code == 2
    assert "harness tune --gpu rtx4090" in caught.value.hint or "harness tune --gpu h100" in caught.value.hint
    assert "--defaults" in caught.value.hint
    assert "--any-preset" in caught.value.hint
    (note,) = presets.checked(found(one), use, is_any=True, say=heard.append)
    assert said in note
    assert said in heard[0]


def test_all_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(PresetMismatch, match=r"found on h100.*the model m.*0\.32\.1.*simulation"):
        presets.checked(
            found(preset(gpu="h100", model="m", is_simulated=True)),
            Use(gpu="rtx4090", model="qwen2.5-1.5b", vllm_version="0.40.0"), is_any=False, say=print,
        )  # fmt: skip


# ---------------------------------------------------------------- figures


def cells(role: str, *values: float, state: CellState = CellState.MEASURED) -> list[Cell]:
    return [
        Cell(
            engine="vllm", title="vLLM", role=role, model="m", scenario="concurrent", users=50, repeat=number,
            state=state, requests=100, output_tokens_mean=128.0,
            output_tok_s=Estimate(value=value, low=value * 0.9, high=value * 1.1, confidence=0.95, n=10, unit="tok/s"),
        )
        for number, value in enumerate(values, start=1)
    ]  # fmt: skip


def test_figures_have_intervals_over_repeats_and_the_ratio_to_the_baseline() -> None:
    (row,) = presets.figures_of(cells("trial 3", 190, 200, 210), cells("baseline", 95, 100, 105))
    assert (row.scenario, row.users, row.metric) == ("concurrent", 50, "output_tok_s")
    assert row.value is not None
    assert row.value.low < 199 < row.value.value < 200 < row.value.high
    assert (row.value.n, row.value.unit) == (3, "tok/s")
    assert row.ratio is not None
    assert row.ratio.value == pytest.approx(2.0)
    assert row.ratio.low < 2 < row.ratio.high


def test_one_repeat_has_no_interval_and_what_does_not_count_is_no_figure() -> None:
    (row,) = presets.figures_of(cells("trial 3", 190), cells("baseline", 95, 100))
    assert row.value is None
    assert row.ratio is None
    assert presets.figures_of(cells("trial 3", 190, state=CellState.INVALID), cells("baseline", 95)) == ()


def test_what_each_launch_on_the_card_gets_comes_before_the_presets_own() -> None:
    cpu = config.gpu_profile("cpu")
    assert presets.passed_flags(None, cpu) == {"enforce-eager": True}
    assert presets.passed_flags(preset(flags={"enforce-eager": False}), cpu) == {"enforce-eager": False}
