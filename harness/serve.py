"""`harness serve`: a tuned vLLM and the proxy in front of it, kept running until somebody stops them.

The proxy is a program to us, as vLLM is, and never imported. It is there from the first second, so that a client is
told "not ready yet" while vLLM loads, also after a crash. Both run in process groups of their own with a watchdog
beside each: whatever ends the harness, nothing of them is left.

    <results>/serve-<port>/
        vllm.log, proxy.log              of this start; of the one before: *.previous.log
        state/                           what the proxy keeps: aliases
        vllm.key                         with --api-key-file: what vLLM asks of the proxy
"""

import contextlib
import errno
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, Protocol

import httpx
import msgspec

import harness
from harness import bench, config, models, store
from harness.engines import talk, vllm
from harness.engines.flags import Install, check_known, known_flags, violations, words
from harness.engines.process import STOP_GRACE_S, ProcessGroup, free_port, process_group
from harness.engines.running import death
from harness.errors import EngineBadFlag, EngineError, EngineHung, EnginePortTaken, HarnessError, UsageError
from harness.progress import Say
from harness.records import Flags, GpuProfile, LaunchSpec, ModelEntry, Preset, Record

OLLAMA_PORT: Final = 11434
PROXY_TITLE: Final = "the proxy"
PROXY_GRACE_S: Final = 10.0
"""For answers that are under way when we are asked to stop."""
PROXY_READY_S: Final = 60.0
LISTED_S: Final = 60.0
"""From both being ready to the proxy's own list having the model; it keeps an older list for some seconds."""
POLL_S: Final = 0.25

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 60.0
STEADY_S: Final = 600.0
"""Who stayed up for so long is started again as if it were the first crash."""
QUICK_S: Final = 60.0
"""A crash before it was ready, or so soon after, is a quick one."""
QUICK_LIMIT: Final = 5
"""So many quick crashes in a row do not mend by another start."""

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


# ---------------------------------------------------------------- which model


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models whose tool calls or thoughts vLLM can tell from their text, by the name of the parser."""

    pattern: str
    """Found anywhere in the name of the model, without case."""
    tools: str = ""
    reasoning: str = ""


FAMILIES: Final = (
    Family(pattern=r"qwen3.*(embedding|reranker|-vl)"),
    Family(pattern=r"qwen3-?coder", tools="qwen3_coder"),
    Family(pattern=r"qwen3.*instruct-2507", tools="hermes"),
    Family(pattern=r"qwen3([:/-]|$)", tools="hermes", reasoning="qwen3"),
    Family(pattern=r"qwen2\.5", tools="hermes"),
    Family(pattern=r"llama-?3\.[123].*(vision|guard)"),
    Family(pattern=r"llama-?3\.[123]", tools="llama3_json"),
)
"""The first that fits counts. From the model cards and vLLM's page on tool calling; SmolLM2's template has no tools."""
PARSER_FLAGS: Final = {"tool-call-parser", "enable-auto-tool-choice", "reasoning-parser"}


def parser_flags(*names: str) -> Flags:
    """What lets vLLM return tool calls and thoughts apart from the text; empty for a family that is not known."""
    for family in FAMILIES:
        if any(re.search(family.pattern, name, re.IGNORECASE) for name in names):
            tools: Flags = {"enable-auto-tool-choice": True, "tool-call-parser": family.tools} if family.tools else {}
            return tools | ({"reasoning-parser": family.reasoning} if family.reasoning else {})
    return {}


def short_tag(entry: ModelEntry) -> str:
    """The name that users of Ollama type: qwen2.5:1.5b for qwen2.5:1.5b-instruct-q4_K_M."""
    family, _, tag = entry.ollama_tags.get(entry.ollama_default, entry.name).partition(":")
    return f"{family}:{tag.partition('-')[0]}" if tag else family


def registered(wanted: str) -> ModelEntry | None:
    """The registry's model of that name, be it ours, Hugging Face's or Ollama's short one. None: it has none."""
    if models.is_synthetic(wanted):
        return models.entry(wanted)
    for entry in models.entries().values():
        if wanted.casefold() in {name.casefold() for name in (entry.name, entry.hf_id, short_tag(entry))}:
            return entry
    return None


def foreign(wanted: str) -> tuple[str, str]:
    """What vLLM loads and what clients call it, for a model that is not in the registry: a folder, or an id of the hub.

    Raises: UsageError where it can be neither.
    """
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("._-")
        return str(folder.resolve()), name or "model"
    if wanted.startswith(("/", ".", "~")):
        raise UsageError(f"there is no model folder {wanted}", hint="it needs config.json, tokenizer and *.safetensors")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", wanted):
        return wanted, wanted
    error = config.unknown_name("model", wanted, models.entries())
    raise UsageError(error.message, hint=f"{error.hint}; or an id of Hugging Face (owner/name), or a folder")


def found_preset(
    wanted: str | None, *, results: Path, profile: GpuProfile, model: str | None, say: Say
) -> Preset | None:
    """The settings that `--preset` names, or else those of this card and model. None: vLLM's own defaults.

    Args:     wanted: a card, card/model, a file, a run of `harness tune`, or "none". None: look for one.
              model: name in the registry. None: the card's default model.
    Raises:   UsageError: nothing is called that, or it has no settings.
    """
    if wanted == "none":
        return None
    cards = config.gpu_profiles()
    card, _, card_model = (wanted or profile.name).partition("/")
    if wanted is not None and wanted.endswith(".toml"):
        preset = config.read_preset(Path(wanted))
    elif card in cards:
        name = card_model or model or cards[card].default_model
        known = config.find_preset(results, gpu=card, model=name)
        if known is None and wanted is not None:
            raise UsageError(
                f"there is no preset of {card} for {name}", hint=f"find one: harness tune --gpu {card} --model {name}"
            )
        if known is None:
            say("no preset for this card and model: vLLM's defaults (harness tune finds better ones)")
            return None
        path, preset = known
        say(f"settings: {path}")
    else:
        found = store.find_run(results, str(wanted)).run().preset
        if found is None:
            raise UsageError(f"run {wanted} found no settings", hint="name a run of `harness tune` that has ended")
        preset = found
    if preset.gpu != profile.name:
        say(f"warning: these settings were found on {preset.gpu}, this is {profile.name}")
    return preset


# ---------------------------------------------------------------- what will be started


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
    entry = registered(model) if model is not None else None
    settings = (
        None
        if model is not None and entry is None and preset is None  # no card has one for a model it does not know
        else found_preset(preset, results=results, profile=profile, model=entry.name if entry else None, say=say)
    )
    if model is None:
        entry = models.entry(settings.model if settings is not None else profile.default_model)
    if settings is not None and (entry is None or settings.model != entry.name):
        raise UsageError(f"the preset is for {settings.model}, not {model}", hint="leave --model out")
    flags = {**profile.vllm_flags, **(settings.flags if settings is not None else {})}
    if entry is not None:
        files = models.fetch(entry.name, vllm_python=str(install.python), say=say)
        spec = bench.launch_spec("vllm", files, flags=flags, env=profile.vllm_env, program=str(install.python))
        spec = msgspec.structs.replace(spec, model=name or short_tag(entry))
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
        *proxy_program(),
        *("--upstream", f"{plan.spec.model}={plan.vllm_url}"),
        *("--host", plan.host, "--port", str(plan.port)),
        *("--state-dir", str(plan.folder / "state")),
        *keys,
        *plan.proxy_words,
    ]


def proxy_program() -> list[str]:
    """How the proxy is started; -P: a folder `proxy` where the user happens to stand must not be it."""
    return [sys.executable, "-P", "-m", "proxy"]


def proxy_environment(inherited: Mapping[str, str], **more: str) -> dict[str, str]:
    """Ours, with the folder that holds both packages, which need not be installed."""
    folders = [*filter(None, [inherited.get("PYTHONPATH")]), str(Path(harness.__file__).parents[1])]
    return {**inherited, "PYTHONPATH": os.pathsep.join(folders), **more}


def become_proxy(asked: Sequence[str]) -> NoReturn:
    """`harness proxy`: this process becomes the proxy, so signals and the exit code are its own. Does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [*proxy_program(), *asked], proxy_environment(os.environ, PROXY_PROG="harness proxy"))


# ---------------------------------------------------------------- the port that clients know


def reachable(host: str) -> str:
    """`host` as part of an address that this machine can ask."""
    if host in {"", "0.0.0.0"}:
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def refuse_taken_port(host: str, port: int) -> None:
    """Nothing, where the proxy can listen there. Raises: EnginePortTaken; UsageError: the address is not ours."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise UsageError(
                f"cannot listen on {host} port {port}: {error.strerror}",
                hint="choose other ones with --host and --port",
            ) from error
        raise taken_port(host, port) from error


def taken_port(host: str, port: int) -> EnginePortTaken:
    """The error for a port that somebody has, who is asked whether it is Ollama."""
    with talk.client(f"http://{reachable(host)}:{port}") as http:
        is_ollama = isinstance(talk.get_json(http, "/api/version"), dict)
    other = f"--port {port + 1}" if port < 65_535 else "another --port"
    if is_ollama:
        return EnginePortTaken(
            f"Ollama, or something that answers as it does, listens on port {port}",
            hint=f"stop it (systemctl stop ollama, or quit its app), or say {other}",
        )
    return EnginePortTaken(
        f"another program listens on port {port}",
        hint=f"find it with: ss -ltnp 'sport = :{port}'; or say {other}",
    )


# ---------------------------------------------------------------- one program that is kept running


class Process(Protocol):
    """What must be known of a process to keep it running."""

    @property
    def pid(self) -> int:
        """Its id."""

    @property
    def returncode(self) -> int | None:
        """Exit code. None: it lives."""

    def listens_on(self, port: int) -> bool:
        """Whether it has the port."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a program is started, how to see that it answers, and why it ended."""

    title: str
    port: int
    log: Path
    ready_timeout_s: float
    start: Callable[[], AbstractContextManager[Process]]
    """When the block ends, nothing of it is left."""
    is_ready: Callable[[], bool]
    why_ended: Callable[[], HarnessError]
    """Asked while the block lasts."""


def delay_s(crashes: int) -> float:
    """How long to wait before the next start, after so many crashes: 1, 2, 4, … and never over a minute."""
    return min(FIRST_DELAY_S * 2.0 ** min(crashes - 1, 30), LONGEST_DELAY_S)


class Supervised:
    """A program that is kept running; `look`, called again and again, does what is due. Nothing here waits."""

    def __init__(self, program: Program, *, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.program = program
        self.process: Process | None = None
        """None: not started yet, or between a crash and the next start."""
        self._say, self._clock = say, clock
        self._block = contextlib.ExitStack()
        self._due_s = self._started_s = clock()
        self._ready_s: float | None = None  # None: it does not answer yet
        self._has_answered = False
        self._crashes = self._quick_crashes = 0

    @property
    def is_ready(self) -> bool:
        """Whether it answered since its last start, and has not been seen to end."""
        return self._ready_s is not None

    def look(self) -> None:
        """Starts the program if that is due, notes when it answers, and clears up after it when it has ended.

        Raises: HarnessError: it failed before it ever answered, or crashes as soon as it is started.
        """
        if self.process is None:
            if self._clock() >= self._due_s:
                self._start()
        elif self.process.returncode is not None:
            self._failed(self.program.why_ended())
        elif not self.is_ready:
            self._wait()

    def stop(self) -> None:
        """Ends the program, with everything that it started itself."""
        self.process, self._ready_s = None, None
        self._block.close()

    def _start(self) -> None:
        self._started_s = self._clock()
        try:
            self.process = self._block.enter_context(self.program.start())
        except EngineError as error:
            self._failed(error)

    def _wait(self) -> None:
        assert self.process is not None
        program, waited_s = self.program, self._clock() - self._started_s
        if program.is_ready():
            if not self.process.listens_on(program.port):
                if self.process.returncode is None:  # else it has ended, and the next look says why
                    self._failed(stranger_on(program.port, title=program.title))
                return
            self._ready_s = self._clock()
            self._has_answered = True
            self._say(f"{program.title} answers after {waited_s:.1f} s")
        elif waited_s > program.ready_timeout_s:
            self._failed(
                EngineHung(
                    f"{program.title} was not ready after {program.ready_timeout_s:.0f} s",
                    hint="see the end of its log for what it was doing; a slow machine needs a longer --ready-timeout",
                    log=program.log,
                )
            )

    def _failed(self, error: HarnessError) -> None:
        """It has ended, or is ended now; when it is started again, or, raised, why it is not."""
        up_s = 0.0 if self._ready_s is None else self._clock() - self._ready_s
        self.stop()
        if not self._has_answered:
            raise error
        self._crashes = 1 if up_s >= STEADY_S else self._crashes + 1
        self._quick_crashes = self._quick_crashes + 1 if up_s < QUICK_S else 0
        if self._quick_crashes >= QUICK_LIMIT:
            self._say(f"{self.program.title}: {QUICK_LIMIT} crashes in a row, giving up")
            raise error
        pause_s = delay_s(self._crashes)
        self._due_s = self._clock() + pause_s
        self._say(f"{error.message}; starting it again in {pause_s:g} s")


def stranger_on(port: int, *, title: str) -> EnginePortTaken:
    """The error for a port that our program was to have, and on which another one answers."""
    return EnginePortTaken(
        f"another program answers on port {port}, which {title} was to have",
        hint=f"find it with: ss -ltnp 'sport = :{port}'",
    )


# ---------------------------------------------------------------- both of them


class Serving(Record, frozen=True, kw_only=True):
    """What `harness serve --json` answers once both are ready."""

    url: str
    models: tuple[str, ...]
    """As the proxy lists them."""
    vllm_url: str
    pids: dict[str, int]
    """First process of each; another one after a crash."""
    logs: dict[str, str]
    argv: dict[str, tuple[str, ...]]


def how_to_use(serving: Serving, *, has_key: bool) -> str:
    """The one line that `harness serve` prints."""
    address, name = serving.url, serving.models[0].removesuffix(":latest")
    if has_key:
        try_it = f"curl {address}/api/tags -H 'Authorization: Bearer KEY'"
    elif address == f"http://127.0.0.1:{OLLAMA_PORT}":
        try_it = f"ollama run {name}"
    else:
        try_it = f"OLLAMA_HOST={address.removeprefix('http://')} ollama run {name}"
    return f"serving {', '.join(serving.models)} on {address}; try: {try_it}"


def run(plan: Plan, *, say: Say, on_ready: Callable[[Serving], None]) -> None:
    """Serves until a signal comes.

    Args:     on_ready: called once, when a client of the proxy finds the model.
    Raises:   HarnessError: one of the two never came up, or does not stay up. Nothing of them is left then either.
    """
    with contextlib.ExitStack() as block:
        is_stopped = block.enter_context(stop_signals())
        prepare(plan)
        asked = block.enter_context(talk.client(plan.url))
        if plan.api_key_file is not None:
            asked.headers["authorization"] = f"Bearer {key_in(plan.api_key_file)}"
        engine = Supervised(block.enter_context(vllm_program(plan)), say=say)
        proxy = Supervised(proxy_program_of(plan, asked), say=say)
        block.callback(engine.stop)  # last in, first out: the proxy ends its answers while vLLM still writes them
        block.callback(proxy.stop)
        say(f"starting {plan.install.title} with {plan.spec.source} (log: {engine.program.log})")
        is_told, both_since_s = False, None
        while not is_stopped():
            proxy.look()
            engine.look()
            if not is_told and proxy.is_ready and engine.is_ready:
                both_since_s = both_since_s or time.monotonic()
                if listed := talk.models(asked, api="ollama"):
                    is_told = True
                    on_ready(serving_now(plan, engine=engine, proxy=proxy, listed=listed))
                elif time.monotonic() - both_since_s > LISTED_S:
                    raise EngineHung("the proxy answers, but lists no model", log=proxy.program.log)
            time.sleep(POLL_S)
        say("stopping: first the proxy, which ends its answers, then vLLM")


def serving_now(plan: Plan, *, engine: Supervised, proxy: Supervised, listed: Sequence[str]) -> Serving:
    """Both as they run now."""
    assert engine.process is not None
    assert proxy.process is not None
    return Serving(
        url=plan.url,
        models=tuple(listed),
        vllm_url=plan.vllm_url,
        pids={"harness": os.getpid(), "vllm": engine.process.pid, "proxy": proxy.process.pid},
        logs={"vllm": str(engine.program.log), "proxy": str(proxy.program.log)},
        argv={"vllm": tuple(vllm_command(plan)), "proxy": tuple(proxy_command(plan))},
    )


def prepare(plan: Plan) -> None:
    """The folder, with the logs of the last time set aside and the key that vLLM will ask for. Raises: UsageError."""
    try:
        (plan.folder / "state").mkdir(parents=True, exist_ok=True)
        for name in ("vllm", "proxy"):
            if (old := plan.folder / f"{name}.log").exists():
                old.replace(plan.folder / f"{name}.previous.log")
        if plan.vllm_key_file is not None:
            plan.vllm_key_file.unlink(missing_ok=True)
            plan.vllm_key_file.touch(mode=0o600)
            plan.vllm_key_file.write_text(f"{secrets.token_urlsafe(32)}\n", encoding="ascii")
    except OSError as error:
        raise UsageError(
            f"cannot write to {plan.folder}: {error.strerror}", hint="choose another folder with --results"
        ) from error


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


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal only make what this yields say True: nothing is interrupted half-way."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- each of them


@contextlib.contextmanager
def vllm_program(plan: Plan) -> Iterator[Program]:
    """vLLM, with a client of ours that asks whether it answers."""
    key = None if plan.vllm_key_file is None else key_in(plan.vllm_key_file)
    kept = Kept(plan.folder / "vllm.log")

    def is_ready() -> bool:
        health = talk.get(http, "/health")
        is_healthy = health is not None and health.status_code == httpx.codes.OK
        return is_healthy and plan.spec.model in (talk.models(http, api="openai") or [])

    with talk.client(plan.vllm_url) as http:
        if key is not None:
            http.headers["authorization"] = f"Bearer {key}"
        yield Program(
            title=plan.install.title,
            port=plan.vllm_port,
            log=kept.log,
            ready_timeout_s=plan.spec.ready_timeout_s,
            start=lambda: kept.started(vllm_command(plan), env=vllm_environment(plan, os.environ, key=key)),
            is_ready=is_ready,
            why_ended=lambda: death(plan.install.title, kept.process, model=plan.spec.source),
        )


def proxy_program_of(plan: Plan, asked: httpx.Client) -> Program:
    """The proxy; `asked` is how to reach it. It is told that somebody starts vLLM again, so that it says "not yet"."""
    kept = Kept(plan.folder / "proxy.log", grace_s=PROXY_GRACE_S)
    env = {"PYTHONUNBUFFERED": "1", "PROXY_PROG": "harness serve", "PROXY_SUPERVISED": "1"}
    return Program(
        title=PROXY_TITLE,
        port=plan.port,
        log=kept.log,
        ready_timeout_s=PROXY_READY_S,
        start=lambda: kept.started(proxy_command(plan), env=proxy_environment(os.environ, **env)),
        is_ready=lambda: talk.get_json(asked, "/api/version") is not None,
        why_ended=lambda: proxy_failure(kept.process.output(), returncode=kept.process.returncode, log=kept.log),
    )


class Kept:
    """The process of the last start, for questions about its log."""

    def __init__(self, log: Path, *, grace_s: float = STOP_GRACE_S) -> None:
        self.log = log
        self._grace_s = grace_s
        self.process: ProcessGroup

    @contextlib.contextmanager
    def started(self, argv: Sequence[str], *, env: Mapping[str, str]) -> Iterator[ProcessGroup]:
        """Runs `argv` for the length of the block."""
        with process_group(argv, log=self.log, env=env, grace_s=self._grace_s) as self.process:
            yield self.process


def proxy_failure(log_text: str, *, returncode: int | None, log: Path) -> HarnessError:
    """Why the proxy has ended, in its own words: it ends as our commands do, with a code, "error: …" and "hint: …"."""
    found = re.findall(r"^(error|hint): (.+)$", log_text, re.MULTILINE | re.IGNORECASE)
    said = {kind.lower(): text for kind, text in found}
    if "error" in said and returncode == UsageError.exit_code:
        return UsageError(f"the proxy refuses: {said['error']}", hint=said.get("hint", "see harness proxy --help"))
    message = f"the proxy ended with {returncode}: {said.get('error') or last_line(log_text)}"
    return EngineError(message, hint=said.get("hint", "see its log for more"), log=log)


def last_line(text: str) -> str:
    """The last line with anything in it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a word")
