"""What will be started: all that is decided before anything is, and the command lines that follow from it."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from harness import models, presets, specs
from harness.engines import proxied, vllm
from harness.engines.flags import Install, check_known, known_flags, violations, words
from harness.engines.process import free_port
from harness.errors import EngineBadFlag, UsageError
from harness.progress import Say
from harness.records import Flags, GpuProfile, LaunchSpec, Preset
from harness.serve.model import PARSER_FLAGS, foreign, parser_flags
from harness.serve.port import reachable

OLLAMA_PORT: Final = 11434
WANTED_FLAGS: Final = ("disable-uvicorn-access-log", "enable-prompt-tokens-details", "enable-per-request-metrics")
"""Where this vLLM knows them: no line per request in the log; cached tokens and times of its own in each answer."""
VLLM_ENV: Final = {"VLLM_MAX_STOP_STRINGS": "64", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75"}
"""Ollama takes any number of stop strings, vLLM 4 by default; and 5 s is short for a connection that is kept for the
next request. What the user's environment says comes first."""
OURS: Final = {
    "host": "clients reach the proxy: say --host before the --",
    "port": "clients reach the proxy: say --port before the --",
    "uds": "the proxy reaches vLLM by a port of the loopback address",
    "root-path": "the proxy reaches vLLM by a port of the loopback address",
    "ssl-keyfile": "the proxy reaches vLLM by a port of the loopback address",
    "ssl-certfile": "the proxy reaches vLLM by a port of the loopback address",
    "model": "say --model before the --",
    "served-model-name": "say --name before the --",
    "api-key": "say --api-key-file before the --",
}
"""Flags of vLLM that are not the user's to give, and what to say instead."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before anything is started."""

    spec: LaunchSpec
    """`model` is the name that clients see."""
    install: Install
    words: tuple[str, ...]
    """More flags for vLLM, as they were typed."""
    host: str
    port: int
    vllm_port: int
    api_key_file: Path | None
    """None: nobody is asked for a key."""
    proxy_words: tuple[str, ...]
    folder: Path

    @property
    def url(self) -> str:
        """Where this machine reaches the proxy."""
        return f"http://{reachable(self.host)}:{self.port}"

    @property
    def vllm_url(self) -> str:
        """Where the proxy reaches vLLM."""
        return f"http://127.0.0.1:{self.vllm_port}"

    @property
    def vllm_key_file(self) -> Path | None:
        """What vLLM asks of the proxy, or a user of this machine would get around the proxy's key. None: nothing."""
        return None if self.api_key_file is None else self.folder / "vllm.key"


def planned(
    *,
    profile: GpuProfile,
    results: Path,
    preset: str | None,
    is_any_preset: bool,
    model: str | None,
    name: str | None,
    vllm_python: str | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    has_tools: bool,
    ready_timeout_s: float,
    proxy_flags: Flags,
    vllm_words: Sequence[str],
    say: Say,
) -> Plan:
    """What `harness serve` will start, with the model fetched. Raises: UsageError, EngineError."""
    install = vllm.find(vllm_python)
    typed = typed_flags(vllm_words)
    entry = models.registered(model) if model is not None else None
    settings = (
        None
        if model is not None and entry is None and preset is None  # no card has one for a model it does not know
        else chosen_settings(
            preset,
            results=results,
            profile=profile,
            model=entry.name if entry else None,
            use=presets.Use(gpu=profile.name, model=entry.name if entry else model, vllm_version=install.version),
            is_any=is_any_preset,
            say=say,
        )
    )
    if model is None:
        entry = models.entry(settings.model if settings is not None else profile.default_model)
    flags = presets.passed_flags(settings, profile)
    if entry is not None:
        files = models.fetch(entry.name, vllm_python=str(install.python), say=say)
        spec = specs.launch_spec("vllm", files, flags=flags, env=profile.vllm_env, program=str(install.python))
        spec = msgspec.structs.replace(spec, model=name or models.short_tag(entry))
    else:
        source, usual_name = foreign(str(model))
        spec = LaunchSpec(
            engine="vllm", model=name or usual_name, source=source, flags=flags, env=profile.vllm_env,
            program=str(install.python),
        )  # fmt: skip
    known = known_flags(install)
    ours: Flags = {flag: True for flag in WANTED_FLAGS if flag in known}
    if has_tools and not PARSER_FLAGS & (typed.keys() | flags.keys()):
        ours |= parser_flags(entry.hf_id if entry is not None else spec.source)
    spec = msgspec.structs.replace(spec, flags={**ours, **flags}, ready_timeout_s=ready_timeout_s)
    check_known({**spec.flags, **typed}, known, install=install)
    if refused := violations(spec.flags, model_max_len=None, needed_tokens=None):
        raise EngineBadFlag(f"{install.title} would refuse: {'; '.join(refused)}", hint="change one of these flags")
    if "max-model-len" in spec.flags and "max-model-len" not in typed:
        say(f"context: {spec.flags['max-model-len']} tokens, as the preset has it; another: -- --max-model-len TOKENS")
    if api_key_file is not None:
        key_in(api_key_file)
    port = port or free_port()
    return Plan(
        spec=spec,
        install=install,
        words=tuple(vllm_words),
        host=host,
        port=port,
        vllm_port=free_port(),
        api_key_file=None if api_key_file is None else api_key_file.absolute(),
        proxy_words=tuple(words(proxy_flags)),
        folder=(results / f"serve-{port}").absolute(),
    )


def chosen_settings(
    wanted: str | None,
    *,
    results: Path,
    profile: GpuProfile,
    model: str | None,
    use: presets.Use,
    is_any: bool,
    say: Say,
) -> Preset | None:
    """The settings that `--preset` names, or else those of this card and model. None: vLLM's own defaults.

    Args:   model: name in the registry. None: the preset's, or the card's default model.
    Raises: UsageError: nothing is called that, it has no settings, or they are for something else.
    """
    if wanted == "none":
        return None
    if wanted is not None:
        found: presets.Found | None = presets.named(wanted, results=results, model=model)
    else:
        found = presets.usual(results=results, profile=profile, model=model)
    if found is None:
        say("no preset for this card and model: vLLM's defaults (harness tune finds better ones)")
        return None
    say(f"settings: {found.origin}")
    presets.checked(found, use, is_any=is_any, say=say, without="--preset none")
    return found.preset


def typed_flags(typed: Sequence[str]) -> dict[str, bool]:
    """The names of the flags among `typed`, which go to vLLM as they are. Raises: UsageError for one that is ours."""
    if typed and not typed[0].startswith("-"):
        raise UsageError(
            f"{typed[0]!r} is no flag of vLLM", hint="they stand behind a --: harness serve -- --max-num-seqs 64"
        )
    names = [word[2:].partition("=")[0].replace("_", "-") for word in typed if re.match(r"--\w", word)]
    for name in names:
        if name in OURS:
            raise UsageError(f"--{name} is not for harness serve to pass on", hint=OURS[name])
    return dict.fromkeys(names, True)


def vllm_command(plan: Plan) -> list[str]:
    """The command line of vLLM; what was typed stands last, and there the last counts."""
    return [*vllm.command(plan.install, plan.spec, port=plan.vllm_port), *plan.words]


def vllm_environment(plan: Plan, inherited: Mapping[str, str], *, key: str | None) -> dict[str, str]:
    """Ours with what bears on vLLM: no development mode, and the key that it asks for. None: it asks for none."""
    env = {**inherited, **VLLM_ENV, **vllm.environment(plan.spec, inherited)}
    env["PATH"] = os.pathsep.join([str(plan.install.python.parent), inherited.get("PATH", os.defpath)])
    env.pop("VLLM_SERVER_DEV_MODE")  # adds endpoints with which a client could stop the engine
    env.pop("VLLM_API_KEY", None)  # the proxy would not know it
    return env if key is None else {**env, "VLLM_API_KEY": key}


def proxy_command(plan: Plan) -> list[str]:
    """The command line of the proxy."""
    keys: list[str] = []
    if plan.api_key_file is not None:
        keys = ["--api-key-file", str(plan.api_key_file), "--upstream-api-key-file", str(plan.vllm_key_file)]
    return [
        *proxied.program(),
        *("--upstream", f"{plan.spec.model}={plan.vllm_url}"),
        *("--host", plan.host, "--port", str(plan.port)),
        *("--state-dir", str(plan.folder / "state")),
        *keys,
        *plan.proxy_words,
    ]


def become_proxy(asked: Sequence[str]) -> NoReturn:
    """`harness proxy`: this process becomes the proxy, so signals and the exit code are its own. Does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [*proxied.program(), *asked], proxied.environment(os.environ, PROXY_PROG="harness proxy"))


def key_in(path: Path) -> str:
    """The key that a file holds. Raises: UsageError."""
    try:
        key, why = path.read_text(encoding="ascii").strip(), "it is empty"
    except OSError as error:
        key, why = "", str(error.strerror)
    except UnicodeDecodeError:
        key, why = "", "it is not ASCII"
    if not key:
        raise UsageError(f"no key can be read from {path}: {why}", hint=f"make one: openssl rand -hex 32 > {path}")
    return key
