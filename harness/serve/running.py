"""Both programs, vLLM and the proxy, from their start to a signal."""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import httpx

from harness import interrupts
from harness.engines import proxied, talk
from harness.engines.process import STOP_GRACE_S, ProcessGroup, process_group
from harness.engines.running import death
from harness.errors import EngineHung, UsageError
from harness.progress import Say
from harness.records import Record
from harness.serve.plan import (
    OLLAMA_PORT,
    Plan,
    key_in,
    proxy_command,
    vllm_command,
    vllm_environment,
)
from harness.serve.supervised import Program, Supervised

PROXY_TITLE: Final = "the proxy"
LISTED_S: Final = 60.0
"""From both being ready to the proxy's own list having the model; it keeps an older list for some seconds."""
POLL_S: Final = 0.25


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


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal only make what this yields say True: nothing is interrupted half-way."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in interrupts.heeded()}
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
    kept = Kept(plan.folder / "proxy.log", grace_s=proxied.GRACE_S)
    env = {"PYTHONUNBUFFERED": "1", "PROXY_PROG": "harness serve", "PROXY_SUPERVISED": "1"}
    return Program(
        title=PROXY_TITLE,
        port=plan.port,
        log=kept.log,
        ready_timeout_s=proxied.READY_S,
        start=lambda: kept.started(proxy_command(plan), env=proxied.environment(os.environ, **env)),
        is_ready=lambda: talk.get_json(asked, "/api/version") is not None,
        why_ended=lambda: proxied.failure(kept.process.output(), returncode=kept.process.returncode, log=kept.log),
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
