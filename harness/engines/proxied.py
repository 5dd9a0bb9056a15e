"""vLLM behind our proxy, asked as Ollama: beside vLLM alone it tells what the proxy costs.

The proxy is a program to us, as every engine is; how it is started and read stands here, for `harness serve` too.
"""

import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import harness
from harness.engines import talk, vllm
from harness.engines.process import ProcessGroup, free_port, process_group, wait_ready
from harness.engines.running import Engine
from harness.errors import EngineError, HarnessError, UsageError
from harness.records import LaunchSpec

GRACE_S: Final = 10.0
"""For answers that are under way when the proxy is asked to stop."""
READY_S: Final = 60.0
"""The longest start of the proxy; vLLM's own comes before it."""


@contextmanager
def launched(spec: LaunchSpec, *, log: Path) -> Iterator[Engine]:
    """vLLM with the proxy in front of it, until the block ends; the proxy's log lies beside vLLM's.

    Raises: EngineError, of vLLM as in `vllm.launched`, or of the proxy by what it says.
    """
    with vllm.launched(spec, log=log) as engine:
        since_s = time.perf_counter()
        port, proxy_log = free_port(), log.with_name(f"{log.stem}-proxy.log")
        argv = [*program(), "--upstream", f"{spec.model}={engine.url}", "--host", "127.0.0.1", "--port", str(port)]
        url, env = f"http://127.0.0.1:{port}", environment(os.environ, PYTHONUNBUFFERED="1")
        with process_group(argv, log=proxy_log, env=env, grace_s=GRACE_S) as proxy, talk.client(url) as http:
            wait_ready(
                proxy,
                lambda: talk.is_listed(spec.model, talk.models(http, api="ollama") or [], api="ollama"),
                title="the proxy",
                port=port,
                timeout_s=READY_S,
                died=lambda: death(proxy),
                log=proxy_log,
            )
            yield dataclasses.replace(
                engine,
                name="proxied",
                title=f"{engine.title} behind the proxy",
                url=url,
                api="ollama",
                dialect="ollama",
                launch_s=engine.launch_s + time.perf_counter() - since_s,
                proxy=proxy,
                proxy_died=lambda: death(proxy),
                metrics_url=engine.url,
                metrics_dialect=engine.dialect,
            )


def program() -> list[str]:
    """How the proxy is started; -P: a folder `proxy` where the user happens to stand must not be it."""
    return [sys.executable, "-P", "-m", "proxy"]


def environment(inherited: Mapping[str, str], **more: str) -> dict[str, str]:
    """Ours, with the folder that holds both packages, which need not be installed."""
    folders = [*filter(None, [inherited.get("PYTHONPATH")]), str(Path(harness.__file__).parents[1])]
    return {**inherited, "PYTHONPATH": os.pathsep.join(folders), **more}


def death(process: ProcessGroup) -> EngineError:
    """Why a proxy of ours has ended; what it was told comes from us, so its refusals are faults of an engine too."""
    why = failure(process.output(), returncode=process.returncode, log=process.log)
    return why if isinstance(why, EngineError) else EngineError(why.message, hint=why.hint, log=process.log)


def failure(log_text: str, *, returncode: int | None, log: Path) -> HarnessError:
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
