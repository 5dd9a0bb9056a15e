"""How it was measured, on what, how to repeat it and what it does not show, in words."""

import shlex
from collections.abc import Sequence

from harness.records import Cell, Run, Sampling, Scenario, Trial
from harness.report import words
from harness.report.figures import latencies, repeats_of, users_of
from harness.report.page import Fact, ScenarioTable


def titled(scenario: Scenario) -> str:
    """Title and, where it says something else, the name that `--scenario` takes."""
    same = scenario.title.casefold() == scenario.name.casefold() or not scenario.title
    return scenario.name if same else f"{scenario.title} ({scenario.name})"


def scenario_table(run: Run, cells: Sequence[Cell]) -> ScenarioTable | None:
    """Every value of every scenario. None: the run names none."""
    if not run.scenarios:
        return None
    columns = [scenario_facts(one, cells) for one in run.scenarios]
    return ScenarioTable(
        titles=tuple(titled(one) for one in run.scenarios),
        rows=tuple((name, tuple(column[name] for column in columns)) for name in columns[0]),
    )


def scenario_facts(scenario: Scenario, cells: Sequence[Cell]) -> dict[str, str]:
    """Every value of a scenario by its name for people."""
    work, load = scenario.workload, scenario.load
    repeats = repeats_of([cell for cell in cells if cell.scenario == scenario.name])
    users = users_of(cells, scenario.name) or list(load.users)
    left_out = [str(count) for count in load.users if count not in users]
    return {
        "Users": words.listed([str(count) for count in users])
        + (f" (left out: {words.listed(left_out)})" if left_out else ""),
        "Load": "closed loop: each user sends the next request when the last answer has ended",
        "Repeats": str(repeats) if repeats else "none yet",
        "Requests": f"at least {load.requests_per_user} per user",
        "Time": f"at least {words.duration(load.min_s)}; nothing is sent after {words.duration(load.max_s)}",
        "Time limit": f"{words.duration(load.request_timeout_s)} for one request",
        "Prompt": f"{words.plural(work.prompt_words, 'English word')}, others in every request"
        + measured_tokens(scenario.name, cells, "prompt_tokens_mean"),
        "Answer": f"{words.plural(work.output_tokens, 'token')}, {'streamed' if work.is_streamed else 'in one piece'}"
        + measured_tokens(scenario.name, cells, "output_tokens_mean"),
        "Sampling": sampling_words(work.sampling),
        "Warm-up": f"before a load's first repeat each user sends one request of "
        f"{words.plural(load.warmup_output_tokens, 'token')}",
    }


def sampling_words(sampling: Sampling) -> str:
    """All sampling values; the defaults are greedy decoding."""
    return ", ".join(
        (
            f"temperature {sampling.temperature:g}" + (" (greedy)" if sampling.temperature == 0 else ""),
            f"top-p {sampling.top_p:g}",
            f"top-k {sampling.top_k or 'off'}",
            f"min-p {sampling.min_p:g}",
            f"repeat penalty {sampling.repeat_penalty:g}",
            f"presence penalty {sampling.presence_penalty:g}",
            f"frequency penalty {sampling.frequency_penalty:g}",
        )
    )


def measured_tokens(scenario: str, cells: Sequence[Cell], field: str) -> str:
    """What the servers counted, over all cells of the scenario; empty where none did."""
    means = [mean for cell in cells if cell.scenario == scenario and (mean := getattr(cell, field)) is not None]
    if not means:
        return ""
    low, high = words.number(min(means)), words.number(max(means))
    counted = low if low == high else f"{low} to {high}"
    return f"; counted by the servers: {counted} tokens"


def method(run: Run, cells: Sequence[Cell]) -> tuple[Fact, ...]:
    """What is in a figure and what is not."""
    repeats = repeats_of(cells)
    same = "Both sides get the same prompts, load by load and repeat by repeat" if run.kind == "compare" else "Prompts"
    facts = {
        "Prompts": f"{same}{' ' if run.kind != 'compare' else ', '}made from the random seed {run.seed}. Sampling "
        "values are sent with every request, so that no server's own defaults enter.",
        "In the window": "The longest stretch in which at least 95% of the users are at work. Throughput counts the "
        "tokens that arrive inside it; latencies are of the requests sent inside it that ended well, however late.",
        "Not in it": "The ramp until all users are there, the drain after the first of them have finished, and "
        "every user's warm-up request.",
        "Cold start": "In no figure: launch, loading the weights and compilation end before the first request. How "
        "long a launch took is listed with each server.",
        "Failures": "Counted by themselves; they never enter a latency. Over 1% of them makes a cell invalid.",
        "Tokens": "As the server counted them, never the pieces of text that came.",
        "Repeats": f"Each load was measured {'once' if repeats == 1 else f'{repeats} times'}. Each repeat is a cell of "
        "its own in the table of all cells, and a ratio's interval comes from how far the repeats differ."
        if repeats
        else "Nothing was measured yet.",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items())


def glossary(run: Run, cells: Sequence[Cell]) -> tuple[Fact, ...]:
    """The terms of this page."""
    level = words.confidence([*latencies(cells), *(row.ratio for row in run.comparisons)])
    terms = {
        "TTFT": "time to first token: from sending the request to the first piece of text. A first message that "
        "only names the role is no text.",
        "ITL": "inter-token latency: the gap between one token and the next while an answer streams; the gap "
        "before a piece of several tokens is shared among them.",
        "TPOT": "time per output token of one request: (E2E − TTFT) ÷ (output tokens − 1).",
        "E2E": "from sending the request to the end of its answer.",
        "tok/s": "output tokens of all users together, as the server counted them, per second of the window.",
        "p50, p95": "half, or 95 of 100, of the values are at or below this one. p50 is the median.",
        "Interval": f"the range that holds the true value{level}. For p50 and p95 two measured values bound it, "
        "whatever the distribution (gaps within one answer resemble each other, so for ITL it comes from how "
        "much whole answers differ); for tok/s it comes from ten slices of the window. Too few values give a dash, not "
        "a guess.",
        "Ratio": "speed of the candidate ÷ speed of the baseline; for times the other way round, so that over 1× "
        "always means a faster candidate.",
        "Verdict": "faster, slower or same only where the whole interval says so; undecided otherwise.",
        "Cell": "one server, scenario, number of users and repeat. An invalid cell has figures that must not be "
        "trusted, a failed one has none; neither enters a ratio.",
        "Client": "the program that sends the requests. Using nearly a whole core, or waking up late (lag), it would "
        "measure itself; such cells are invalid.",
    }
    return tuple(Fact(name=name, text=text) for name, text in terms.items())


# ---------------------------------------------------------------- machine, repetition, limits


def machine(run: Run) -> tuple[Fact, ...]:
    """Where it ran."""
    host = run.host
    facts = {
        "GPU": host.gpu or "none that could be seen",
        "GPU driver": host.gpu_driver or "",
        "Profile": run.gpu,
        "CPU": f"{host.cpu}, {words.plural(host.cores, 'core')}",
        "Memory": words.gib(host.memory_bytes),
        "System": host.os,
        "Python": host.python,
        "Harness": f"{run.harness_version} (results version {run.version})",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)


def split_command(command: str) -> list[str]:
    """The words of a command line; one that a shell would refuse is cut at its spaces."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def commands(run: Run) -> tuple[Fact, ...]:
    """The command lines that measure again and that make this page again."""
    again = shlex.join(words.without_secrets(split_command(run.command)))
    first = f", after run {run.tuned_in}, from which the settings come" if run.tuned_in else ""
    return (
        Fact(name=again, text=f"measures all of this again{first}"),
        Fact(name=f"harness report {run.id}", text="makes this page again from the recorded data"),
    )


def limits(run: Run) -> tuple[str, ...]:
    """What these figures do not show."""
    return (
        *run.notes,
        "The figures hold for this machine, model, prompts and these versions; each is part of the result.",
        "The load is a closed loop: a slow server is asked less often. Requests that arrive by themselves would "
        "wait longer in a queue than these did.",
    )


def raw_files(run: Run, trials: Sequence[Trial]) -> tuple[Fact, ...]:
    """Where every figure of this page can be checked."""
    folder = f"results/{run.id}"
    facts = {
        f"{folder}/run.json": "the run: machine, versions, flags, comparisons",
        f"{folder}/cells.jsonl": "every cell with its estimates",
        f"{folder}/trials.jsonl": "every trial of the search" if trials else "",
        f"{folder}/requests/": "every request with the time of each piece of its answer",
        f"{folder}/telemetry/": "memory, CPU and GPU readings on the same clock",
        f"{folder}/engine-*.log": "what the servers said",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)
