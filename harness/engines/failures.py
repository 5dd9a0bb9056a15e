"""Why an engine ended, read from its own log; pure.

The texts are those of vLLM 0.26 to 0.32, torch, llama.cpp and Ollama 0.33. Their order in `KNOWN` matters: one failure
writes many errors, and a text that names the cause stands before one that others cause too.
"""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import (
    EngineBadFlag,
    EngineContextTooLong,
    EngineCrashed,
    EngineError,
    EngineModelNotFound,
    EngineOutOfMemory,
    EnginePortTaken,
)

GIB: Final = 2**30
UNIT_BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}
LAST_LINES: Final = 5

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PREFIX = re.compile(
    r"^(?:\([\w-]+ pid=\d+\) )?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]+:\d+\] ?)?",
    re.MULTILINE,
)
"""What vLLM puts before a line: "(EngineCore pid=7) ERROR 11-22 15:03:36 [core.py:1510] "."""

EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*)?(?:Error|Exception|Interrupt|Exit)(?:: .*)?$", re.MULTILINE)
"""The final line of a traceback, and what a Go program says before it ends."""

NOT_THE_CAUSE = re.compile(r"See root cause above|EngineDeadError|Executor failed\.|^SystemExit|^BrokenPipeError")
"""Exceptions that only pass on that another process has failed."""

DEATH = re.compile(r"^Worker proc \S+ died unexpectedly.*$", re.MULTILINE)
"""All that vLLM has to say of a worker that was killed; after other failures it says it too."""

NOISE = re.compile(
    r"^\s*$|nanobind|^ - (leaked|\.\.\. skipped)|resource_tracker|warnings\.warn\(|^\[GIN\]|^INFO: |\[shutdown\]"
)
"""What stands at the end of a log and tells nothing about why it ended."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is known beside the text that matched."""

    title: str
    model: str
    log: Path | None


def failure(
    title: str,
    log_text: str,
    *,
    returncode: int | None,
    oom_kills: int | None = None,
    log: Path | None = None,
    model: str = "",
) -> EngineError:
    """The error that the log of an ended engine tells of, with its figures and what to do next.

    Args:     returncode: of the process, negative for a signal; None where it lives and has only refused.
              oom_kills: processes of this machine that the kernel killed for want of memory while the engine lived.
                         None: it does not tell.
              model: what it was to load, for the message.
    """
    text = plain(log_text)
    case = Case(title=title, model=model, log=log)
    for pattern, error in KNOWN:
        if found := pattern.search(text):
            return error(found, case)
    is_killed = returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    if oom_kills or (is_killed and oom_kills is None):
        return _killed(case, is_certain=oom_kills is not None)
    return EngineCrashed(
        f"{title} {_end(returncode)}: {cause(text) or 'its log does not say why'}",
        hint="\n".join(["the log ends with:", *(f"  {line}" for line in last_lines(text))]),
        log=log,
    )


def plain(log_text: str) -> str:
    """The log without colours, and without what vLLM puts before each line."""
    return PREFIX.sub("", COLOUR.sub("", log_text))


def cause(text: str) -> str:
    """Final line of the last traceback that is not about another process; empty where there is none."""
    found = [match[0] for match in EXCEPTION.finditer(text)]
    telling = [line for line in found if not NOT_THE_CAUSE.search(line)]
    deaths = [match[0] for match in DEATH.finditer(text)]
    return (telling or deaths or found or [""])[-1]


def last_lines(text: str, *, lines: int = LAST_LINES) -> list[str]:
    """The last lines that are not the noise of an ending process."""
    return [line for line in text.splitlines() if not NOISE.search(line)][-lines:]


def _end(returncode: int | None) -> str:
    if returncode is None:
        return "failed"
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended by itself with exit code {returncode}"


# ---------------------------------------------------------------- memory


def _memory_held_by_others(found: re.Match[str], case: Case) -> EngineError:
    free, total, ratio, wanted = (float(found[name]) for name in ("free", "total", "ratio", "wanted"))
    room = int(free / total * 100) / 100  # rounded down, or it would not fit
    return EngineOutOfMemory(
        f"{case.title} wants {wanted:g} GiB at the start, and {free:g} of {total:g} GiB are free",
        hint=f"another process holds {total - free:.2f} of {total:g} GiB: end it (a GPU's are listed by nvidia-smi), "
        f"or lower gpu-memory-utilization from {ratio:g} to {room:.2f}",
        log=case.log,
        short_bytes=_bytes(wanted - free),
        is_environmental=True,
    )


def _cpu_cache_too_large(found: re.Match[str], case: Case) -> EngineError:
    free, total, wanted = (float(found[name]) for name in ("free", "total", "wanted"))
    if wanted <= 0:
        return EngineOutOfMemory(
            f"{case.title} has no memory left for the KV cache: model and engine take {-wanted:g} GiB more than "
            "its whole share",
            hint="raise gpu-memory-utilization (it rules the CPU's memory too), or set VLLM_CPU_KVCACHE_SPACE",
            log=case.log,
            short_bytes=_bytes(-wanted),
        )
    return EngineOutOfMemory(
        f"{case.title} wants {wanted:g} GiB for the KV cache, and {free:g} of {total:g} GiB are free",
        hint=f"another process holds memory: end it, or set VLLM_CPU_KVCACHE_SPACE to less than {free:g}",
        log=case.log,
        short_bytes=_bytes(wanted - free),
        is_environmental=True,
    )


def _no_cache_memory(found: re.Match[str], case: Case) -> EngineError:  # noqa: ARG001 - the text has no figure
    return EngineOutOfMemory(
        f"{case.title} has no memory left for the KV cache once the model is loaded",
        hint="raise gpu-memory-utilization, lower max-num-batched-tokens, or take smaller or quantized weights",
        log=case.log,
    )


def _allocation_failed(found: re.Match[str], case: Case) -> EngineError:
    groups = found.groupdict()
    asked, free = (_size_bytes(groups.get(name), groups.get(f"{name}_unit")) for name in ("asked", "free"))
    what = f": it asked for {asked / GIB:.2f} GiB" if asked is not None else ""
    what += f" and {free / GIB:.2f} GiB were free" if free is not None else ""
    return EngineOutOfMemory(
        f"{case.title} ran out of memory{what}",
        hint="lower max-num-seqs, max-num-batched-tokens, the context or the slots, or take smaller weights",
        log=case.log,
        short_bytes=asked - (free or 0) if asked is not None and asked > (free or 0) else None,
    )


def _ollama_needs_more(found: re.Match[str], case: Case) -> EngineError:
    needed, free = (_size_bytes(found[name], found[f"{name}_unit"]) or 0 for name in ("needed", "free"))
    return EngineOutOfMemory(
        f"{case.title} needs {needed / GIB:.2f} GiB for the model, and {free / GIB:.2f} GiB are free",
        hint="end other programs, or take a smaller model, a shorter context or fewer slots",
        log=case.log,
        short_bytes=max(needed - free, 0),
    )


def _killed(case: Case, *, is_certain: bool) -> EngineError:
    certain = "ended while the kernel killed processes because the machine's memory had run out"
    return EngineOutOfMemory(
        f"{case.title} {certain if is_certain else 'was ended by SIGKILL, as the kernel does when memory runs out'}",
        hint="see: dmesg | grep -i 'out of memory'; then take fewer slots or sequences, or smaller weights",
        log=case.log,
    )


# ---------------------------------------------------------------- context


def _cache_below_context(found: re.Match[str], case: Case) -> EngineError:
    fits = int(found["fits"]) if found["fits"] else None
    return EngineContextTooLong(
        f"{case.title} needs {found['needed']} GiB of KV cache for one request of {found['context']} tokens, "
        f"and has {found['free']} GiB",
        hint=f"set max-model-len to {fits} or less" if fits else "lower max-model-len, or raise gpu-memory-utilization",
        log=case.log,
        fits=fits,
    )


def _context_above_model(found: re.Match[str], case: Case) -> EngineError:
    known = [int(float(length)) for length in (found["derived"], found["maximum"]) if length and length != "None"]
    fits = max(known)
    return EngineContextTooLong(
        f"{case.title} was asked for a context of {found['asked']} tokens, and the model knows {fits}",
        hint=f"set max-model-len to {fits} or less",
        log=case.log,
        fits=fits,
    )


# ---------------------------------------------------------------- flags, port, model


def _unknown_flag(found: re.Match[str], case: Case) -> EngineError:
    return EngineBadFlag(
        f"{case.title} does not know the flag {found['flags'].strip()}",
        hint="flags differ between versions; the log begins with all that this one knows",
        log=case.log,
    )


def _refused_flag(found: re.Match[str], case: Case) -> EngineError:
    named = f"{found['flag']}: " if found.groupdict().get("flag") else ""
    return EngineBadFlag(
        f"{case.title} refuses its flags: {named}{found['why'].strip()}",
        hint="change or leave out the flag that the message names",
        log=case.log,
    )


def _refused_configuration(found: re.Match[str], case: Case) -> EngineError:
    reasons, position = [], found.end() + 1
    while complaint := PYDANTIC_COMPLAINT.match(found.string, position):
        reasons.append(": ".join(part for part in complaint.groups() if part))
        position = complaint.end()
    return EngineBadFlag(
        f"{case.title} refuses its flags: {'; '.join(reasons) or found[0]}",
        hint="change or leave out the flag that the message names",
        log=case.log,
    )


def _port_taken(found: re.Match[str], case: Case) -> EngineError:
    port = found["port"] or found["bound"]
    return EnginePortTaken(
        f"another program listens on {'port ' + port if port else 'the port'} that {case.title} was given",
        hint=f"find it with: ss -ltnp{f' sport = :{port}' if port else ''}",
        log=case.log,
    )


def _model_missing(hint: str) -> Callable[[re.Match[str], Case], EngineError]:
    def error(found: re.Match[str], case: Case) -> EngineError:
        name = case.model or found.groupdict().get("name") or "its model"
        return EngineModelNotFound(
            f"{case.title} cannot load {name}: {found['why'].strip()}", hint=hint.format(name=name), log=case.log
        )

    return error


# ---------------------------------------------------------------- texts


def _line(text: str) -> re.Pattern[str]:
    return re.compile(text, re.MULTILINE)


PROGRAM: Final = r"^(?:[\w-]+\.py|python -m [\w.]+|vllm \w+)"
"""As argparse names it. A compiler's "main.cpp:3: error:" is something else."""
EXCEPTION_START: Final = r"^(?:[A-Za-z_]\w*\.)*"
PYDANTIC_COMPLAINT: Final = re.compile(
    r"(?:(\w+)\n)?  (?=\S)(?:Value error, )?([^\n]+?)(?: \[type=[^\n]*)?\n"
    r"(?:    For further information[^\n]*(?:\n|\Z))?"
)
"""The field, where the complaint is about one, and what is wrong."""
NAMES: Final = r"max_num_\w+|long_prefill_\w+|max_model_len|cudagraph\w*|max_cudagraph\w*|async.scheduling|speculative"

KNOWN: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Case], EngineError]], ...]] = (
    # argparse ends at once, so nothing else can have gone wrong
    (_line(rf"{PROGRAM}: error: unrecognized arguments: (?P<flags>.+)$"), _unknown_flag),
    (_line(rf"{PROGRAM}: error: (?:argument (?P<flag>--?[\w./-]+): )?(?P<why>.+)$"), _refused_flag),
    # the memory of others, before all that is the fault of the settings
    (
        _line(
            r"(?:Free memory on device|Available memory on node) \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on "
            r"startup is less than desired \w+ memory utilization \((?P<ratio>[\d.]+), (?P<wanted>[\d.]+) GiB\)"
        ),
        _memory_held_by_others,
    ),
    (
        _line(
            r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on kv cache allocation "
            r"is less than requested memory for kv \((?P<wanted>-?[\d.]+)"
        ),
        _cpu_cache_too_large,
    ),
    (
        _line(
            r"at least one request with the model's max seq len \((?P<context>\d+)\), \(?(?P<needed>[\d.]+) GiB KV "
            r"cache is needed, which is larger than the available KV cache memory \((?P<free>[\d.]+) GiB\)"
            r"(?:.*estimated maximum model length is (?P<fits>\d+))?"
        ),
        _cache_below_context,
    ),
    # a pydantic error of ModelConfig, so before those of flags
    (
        _line(
            r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
            r"\(\w+=(?P<derived>[\d.]+|None)(?: or model_max_length=(?P<maximum>[\d.]+|None))?"
        ),
        _context_above_model,
    ),
    (_line(r"No available memory for the cache blocks"), _no_cache_memory),
    (
        _line(
            r"CUDA out of memory\. Tried to allocate (?P<asked>[\d.]+) (?P<asked_unit>[KMG]iB)"
            r"(?:.*? of which (?P<free>[\d.]+) (?P<free_unit>[KMG]iB|bytes) is free)?"
        ),
        _allocation_failed,
    ),
    (_line(r"you tried to allocate (?P<asked>\d+) (?P<asked_unit>bytes)"), _allocation_failed),
    (
        _line(r"allocating (?P<asked>[\d.]+) (?P<asked_unit>MiB) on device \d+: cudaMalloc failed"),
        _allocation_failed,
    ),
    (
        _line(
            r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|^MemoryError|std::bad_alloc|"
            r"unable to allocate \S+ buffer|failed to allocate buffer for kv cache|failed to allocate compute"
        ),
        _allocation_failed,
    ),
    (
        _line(
            r"model requires more system memory \((?P<needed>[\d.]+) (?P<needed_unit>[KMG]iB)\) than is available "
            r"\((?P<free>[\d.]+) (?P<free_unit>[KMG]iB|B)\)"
        ),
        _ollama_needs_more,
    ),
    (
        _line(
            r"(?::(?P<port>\d+): bind: )?[Aa]ddress already in use|"
            r"couldn't bind HTTP server socket.* port: (?P<bound>\d+)"
        ),
        _port_taken,
    ),
    # vLLM wraps some of these in a pydantic error of ModelConfig, so before those of flags
    (
        _line(rf"{EXCEPTION_START}(?P<why>GatedRepoError.*|OSError: .*gated repo.*)$"),
        _model_missing("accept its licence on https://huggingface.co/{name}, then set HF_TOKEN to your access token"),
    ),
    (
        _line(
            rf"{EXCEPTION_START}(?P<why>(?:LocalEntryNotFoundError|OfflineModeIsEnabled).*|"
            r"OSError: We couldn't connect to .*)$"
        ),
        _model_missing("it is not on this machine and the network was not reached; fetch it where there is one"),
    ),
    (
        _line(
            rf"{EXCEPTION_START}(?P<why>(?:RepositoryNotFoundError|HFValidationError).*|"
            r"OSError: .*(?:is not a valid model identifier|does not appear to have a file named).*|"
            r"RuntimeError: Cannot find any model weights.*|FileNotFoundError: .*(?:config\.json|safetensors).*)$"
        ),
        _model_missing("check the name, or the folder: it needs config.json, the tokenizer and *.safetensors"),
    ),
    (
        _line(r"Value error, (?P<why>Invalid repository ID or local directory specified: '(?P<name>[^']*)')"),
        _model_missing("check the name, or the folder: it needs config.json, the tokenizer and *.safetensors"),
    ),
    (
        _line(r"(?P<why>(?:failed to open GGUF file|error loading model|failed to load model)[^\n]*)"),
        _model_missing("check the path, and that it is a GGUF file this version of llama.cpp can read"),
    ),
    (_line(r"validation errors? for \w+Config$"), _refused_configuration),
    (_line(rf"^ValueError: (?P<why>.*(?:{NAMES}).*)$"), _refused_flag),
)


def _bytes(gib: float) -> int:
    return round(gib * GIB)


def _size_bytes(number: str | None, unit: str | None) -> int | None:
    if number is None:
        return None
    return round(float(number) * UNIT_BYTES.get(unit or "B", 1))
