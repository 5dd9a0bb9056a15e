"""Flags: as words, what a vLLM knows, what it refuses. The vLLM here is a script that prints a help text."""

import sys
from pathlib import Path

import pytest

from harness.engines.flags import Install, check_known, flag_schema, known_flags, names_only, violations, words
from harness.errors import EngineBadFlag, EngineCrashed
from harness.records import Flags, KnownFlag

HELP = """\
usage: api_server.py [-h] [--headless] [model_tag]

options:
  --model MODEL         Name. Once this was --model-name.
  --max-num-seqs MAX_NUM_SEQS
  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT
  --enable-prefix-caching, --no-enable-prefix-caching
                        Whether prefixes are kept, as --old-flag did.
  --compilation-config COMPILATION_CONFIG, -cc COMPILATION_CONFIG
"""


def install(folder: Path, *, help_all: str = "", plain_help: str = "", version: str = "0.32.0") -> Install:
    """A Python interpreter whose vLLM prints these texts, or fails where there is none; it counts how often."""
    python = folder / "python"
    python.write_text(
        f"""#!{sys.executable}
import pathlib, sys
with open({str(folder / "asked")!r}, "a") as asked:
    asked.write("x")
text = {{"--help=all": {help_all!r}, "--help": {plain_help!r}}}[sys.argv[-1]]
print(text)
sys.exit(0 if text else "RuntimeError: operator torchvision::nms does not exist")
"""
    )
    python.chmod(0o755)
    return Install(python=python, version=version)


def asked(folder: Path) -> int:
    return len((folder / "asked").read_text())


# ---------------------------------------------------------------- words


def test_flags_become_words() -> None:
    flags: Flags = {"max-num-seqs": 64, "enforce-eager": True, "enable-prefix-caching": False, "dtype": "bfloat16"}
    assert words(flags) == [
        *("--max-num-seqs", "64", "--enforce-eager", "--no-enable-prefix-caching", "--dtype", "bfloat16"),
    ]


def test_one_is_a_number_and_no_switch() -> None:
    """1 == True in Python."""
    assert words({"stream-interval": 1, "gpu-memory-utilization": 0.9}) == [
        *("--stream-interval", "1", "--gpu-memory-utilization", "0.9"),
    ]


def test_a_value_that_begins_with_a_dash_stays_with_its_flag() -> None:
    assert words({"max-model-len": -1}) == ["--max-model-len=-1"]


# ---------------------------------------------------------------- known


def test_flags_are_those_that_the_help_defines_and_not_those_it_speaks_of(tmp_path: Path) -> None:
    assert known_flags(install(tmp_path, help_all=HELP), cache=tmp_path / "cache") == {
        *("model", "max-num-seqs", "api-server-count", "enable-prefix-caching", "no-enable-prefix-caching"),
        "compilation-config",
    }


def test_a_vllm_is_asked_once(tmp_path: Path) -> None:
    vllm = install(tmp_path, help_all=HELP)
    first = known_flags(vllm, cache=tmp_path / "cache")
    assert known_flags(vllm, cache=tmp_path / "cache") == first
    assert asked(tmp_path) == 1


def test_another_version_is_asked_anew(tmp_path: Path) -> None:
    for version in ("0.32.0", "0.33.0"):
        known_flags(install(tmp_path, help_all=HELP, version=version), cache=tmp_path / "cache")
    assert asked(tmp_path) == 2


def test_a_vllm_without_grouped_help_is_asked_for_the_plain_one(tmp_path: Path) -> None:
    assert "max-num-seqs" in known_flags(install(tmp_path, plain_help=HELP), cache=tmp_path / "cache")


def test_a_vllm_that_cannot_print_its_help_is_broken_and_that_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="cannot print its help: RuntimeError: operator torchvision::nms"):
        known_flags(install(tmp_path), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- what they take


SERVER = """\
import argparse, json
print("importing torch takes a while")
def bounded(text):
    return int(text)
parser = argparse.ArgumentParser()
parser.add_argument("model_tag", nargs="?")
parser.add_argument("--model")
parser.add_argument("--max-num-seqs", type=bounded, default=256)
parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
parser.add_argument("--kv-cache-dtype", "-kv", choices=["auto", "fp8"], default="auto")
parser.add_argument("--dtype", metavar=["auto", "half"])
parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
parser.add_argument("--enforce-eager", action="store_true")
parser.add_argument("--speculative-config", type=json.loads, default=argparse.SUPPRESS)
if __name__ == "__main__":
    parser.parse_args()
    raise SystemExit("it was started")
"""


def real(folder: Path, *, server: str = SERVER) -> Install:
    """A Python that has a package of vLLM's name, whose server has these flags; it counts how often it was asked."""
    package = folder / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for inner in (package, package.parent, package.parent.parent):
        (inner / "__init__.py").write_text("")
    (package / "api_server.py").write_text(server)
    python = folder / "python"
    python.write_text(
        f"""#!/bin/sh
printf x >> {folder / "asked"}
PYTHONPATH={folder / "site"} exec {sys.executable} "$@"
"""
    )
    python.chmod(0o755)
    return Install(python=python, version="0.32.0")


def test_each_flag_is_known_with_its_kind_its_choices_and_its_default(tmp_path: Path) -> None:
    assert flag_schema(real(tmp_path), cache=tmp_path / "cache") == {
        flag.name: flag
        for flag in (
            KnownFlag(name="help", kind="bool"),
            KnownFlag(name="model", kind="str"),
            KnownFlag(name="max-num-seqs", kind="int", default=256),
            KnownFlag(name="gpu-memory-utilization", kind="float", default=0.92),
            KnownFlag(name="kv-cache-dtype", kind="str", choices=("auto", "fp8"), default="auto"),
            KnownFlag(name="dtype", kind="str", choices=("auto", "half")),
            KnownFlag(name="enable-prefix-caching", kind="bool"),
            KnownFlag(name="enforce-eager", kind="bool", default=False),
            KnownFlag(name="speculative-config", kind="json"),
        )
    }


def test_a_schema_is_asked_for_once(tmp_path: Path) -> None:
    vllm = real(tmp_path)
    first = flag_schema(vllm, cache=tmp_path / "cache")
    assert flag_schema(vllm, cache=tmp_path / "cache") == first
    assert asked(tmp_path) == 1


def test_where_the_parser_cannot_be_reached_the_help_gives_the_names(tmp_path: Path) -> None:
    help_only = f"import sys\nprint({HELP!r} if '--help=all' in sys.argv else '')"
    found = flag_schema(real(tmp_path, server=help_only), cache=tmp_path / "cache")
    assert found["max-num-seqs"] == KnownFlag(name="max-num-seqs", kind="")
    assert "enable-prefix-caching" in found
    assert "no-enable-prefix-caching" not in found


def test_a_vllm_that_does_not_start_has_no_schema_and_that_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="cannot print its help: ImportError: no torch"):
        flag_schema(real(tmp_path, server="raise ImportError('no torch')"), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_names_alone_leave_out_the_negative_form_of_a_switch() -> None:
    assert set(names_only(["x", "no-x", "no-one"])) == {"x", "no-one"}


KNOWN = frozenset({"max-num-seqs", "max-num-batched-tokens", "compilation-config", "no-enable-prefix-caching"})
INSTALL = Install(python=Path("/venv/bin/python"), version="0.32.0+cpu")


def test_an_unknown_flag_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(EngineBadFlag, match=r"vLLM 0\.32\.0 does not know the flag --max-num-sequences") as caught:
        check_known({"max-num-sequences": 64}, KNOWN, install=INSTALL)
    assert caught.value.hint == "did you mean --max-num-seqs?"


def test_an_unknown_flag_like_no_other_gets_the_way_to_the_list() -> None:
    with pytest.raises(EngineBadFlag) as caught:
        check_known({"swap-space": 4}, KNOWN, install=INSTALL)
    assert "--help=all" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["max-num-seqs", "max_num_seqs", "compilation-config.mode", "no-enable-prefix-caching"]
)
def test_spellings_that_vllm_takes_are_known(name: str) -> None:
    check_known({name: 1}, KNOWN, install=INSTALL)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            {"max-num-batched-tokens": 64, "max-num-seqs": 128},
            "max-num-batched-tokens 64 is less than max-num-seqs 128",
        ),
        ({"max-num-active-seqs": 65, "max-num-seqs": 64}, "max-num-active-seqs 65 is more than max-num-seqs 64"),
        (
            {"long-prefill-token-threshold": 4097, "max-model-len": 4096},
            "long-prefill-token-threshold 4097 is more than the context of 4096",
        ),
        ({"long-prefill-token-threshold": 8193}, "long-prefill-token-threshold 8193 is more than the context of 8192"),
        ({"max-model-len": 8193}, "max-model-len 8193 is more than the 8192 that the model knows"),
        ({"max-model-len": "16k"}, "max-model-len 16000 is more than the 8192 that the model knows"),
        (
            {"max-num-batched-tokens": 4096, "enable-chunked-prefill": False},
            "max-num-batched-tokens 4096 is less than the context of 8192, without chunked prefill",
        ),
        (
            {"max-num-batched-tokens": 4096, "no-enable-chunked-prefill": True},
            "max-num-batched-tokens 4096 is less than the context of 8192, without chunked prefill",
        ),
        ({"max-model-len": 511}, "a context of 511 does not hold a request of 512 tokens"),
        (
            {"cudagraph-capture-sizes": "1,2", "max-cudagraph-capture-size": 8},
            "max-cudagraph-capture-size 8 is not the largest that is captured of cudagraph-capture-sizes, 2",
        ),
        (
            {
                "cudagraph-capture-sizes": "1,64",
                "max-cudagraph-capture-size": 64,
                "max-num-batched-tokens": 32,
                "max-model-len": 512,
            },
            "max-cudagraph-capture-size 64 is not the largest that is captured of cudagraph-capture-sizes, 1",
        ),
        (
            {"max-cudagraph-capture-size": 8, "compilation-config": '{"max_cudagraph_capture_size": 8}'},
            "max-cudagraph-capture-size is given twice, also in compilation-config",
        ),
        ({"api-server-count": 2}, "api-server-count has no effect on python -m vllm.entrypoints.openai.api_server"),
    ],
)
def test_a_combination_that_vllm_refuses_is_told(flags: Flags, reason: str) -> None:
    assert violations(flags, model_max_len=8192, needed_tokens=512) == [reason]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"max-num-batched-tokens": 128, "max-num-seqs": 128, "max-num-active-seqs": 128},
        {"max-num-batched-tokens": 64},
        {"max-num-seqs": 4096},
        {"max-model-len": 8192, "long-prefill-token-threshold": 8192},
        {"max-model-len": 512},
        {"max-model-len": "8K"},
        {"max-model-len": -1, "max-num-seqs": 64},
        {"max-model-len": "auto"},
        {"max-num-batched-tokens": 8192, "enable-chunked-prefill": False},
        {"max-num-batched-tokens": 256, "enable-chunked-prefill": True},
        {"api-server-count": 1},
        {"cudagraph-capture-sizes": "1,2", "max-cudagraph-capture-size": 2},
        {"cudagraph-capture-sizes": "1,2", "max-cudagraph-capture-size": 8, "enforce-eager": True},
        {"max-cudagraph-capture-size": 1024, "max-num-batched-tokens": 512},
        {"max-cudagraph-capture-size": 8, "compilation-config": '{"cudagraph_mode":"PIECEWISE"}'},
    ],
)
def test_what_vllm_takes_is_not_refused(flags: Flags) -> None:
    assert violations(flags, model_max_len=8192, needed_tokens=512) == []


def test_what_is_not_known_is_not_judged() -> None:
    flags: Flags = {"max-model-len": 10**6, "long-prefill-token-threshold": 10**6, "max-num-batched-tokens": 8}
    assert violations(flags, model_max_len=None, needed_tokens=None) == []


def test_all_reasons_are_told_at_once() -> None:
    flags: Flags = {"max-num-batched-tokens": 8, "max-num-seqs": 16, "max-model-len": 9000}
    assert len(violations(flags, model_max_len=8192, needed_tokens=9001)) == 3
