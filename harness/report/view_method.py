"""How it was measured, on what, how to repeat it and what it does not show, in words."""

def scenario_facts(scenario: Scenario, cells: Sequence[Cell]) -> tuple[Fact, ...]:
    """Every value of a scenario."""
    work, load = scenario.workload, scenario.load
    repeats = len({cell.repeat for cell in cells if cell.scenario == scenario.name})
    users = users_of(cells, scenario.name) or list(load.users)
    left_out = [count for count in load.users if count not in users]
    sampling = work.sampling
    facts = {
        "Users": words.listed([str(count) for count in users])
        + (f" (the scenario also has {words.listed([str(count) for count in left_out])})" if left_out else ""),
        "Load": "closed loop: each user sends the next request when the last answer has ended",
        "Repeats": str(repeats) if repeats else "none yet",
        "Requests": (
            f"at least {load.requests_per_user} per user and {words.duration(load.min_s)}, "
            f"at most {words.duration(load.max_s)}; one request is waited for up to "
            f"{words.duration(load.request_timeout_s)}"
        ),
        "Prompt": f"{words.plural(work.prompt_words, 'English word')} that no other request has"
        + measured_tokens(scenario.name, cells, "prompt_tokens_mean"),
        "Answer": f"{words.plural(work.output_tokens, 'token')}, "
        f"{'streamed' if work.is_streamed else 'in one piece, not streamed'}"
        + measured_tokens(scenario.name, cells, "output_tokens_mean"),
        "Sampling": ", ".join(
            (
                f"temperature {sampling.temperature:g}" + (" (greedy)" if sampling.temperature == 0 else ""),
                f"top-p {sampling.top_p:g}",
                f"top-k {sampling.top_k or 'off'}",
                f"min-p {sampling.min_p:g}",
                f"repeat penalty {sampling.repeat_penalty:g}",
                f"presence penalty {sampling.presence_penalty:g}",
                f"frequency penalty {sampling.frequency_penalty:g}",
            )
        ),
        "Warm-up": (
            f"before a load's first repeat each user sends one request of "
            f"{words.plural(load.warmup_output_tokens, 'token')}, left out of all figures"
        ),
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items())


def measured_tokens(scenario: str, cells: Sequence[Cell], field: str) -> str:
    """What the servers counted, over all cells of the scenario; empty where none did."""
    means = [
        mean for cell in cells if cell.scenario == scenario and (mean := getattr(cell, field)) is not None
    ]
    if not means:
        return ""
    low, high = words.number(min(means)), words.number(max(means))
    counted = low if low == high else f"{low} to {high}"
    return f"; the servers counted {counted} tokens per request"


def method(run: Run, cells: Sequence[Cell]) -> tuple[str, ...]:
    """What is in a figure and what is not."""
    repeats = len({cell.repeat for cell in cells})
    return (
        "Both sides get the same prompts in the same order and the same sampling values, sent explicitly; "
        f"the random seed is {run.seed}."
        if pairable(run)
        else f"Prompts are made from the random seed {run.seed}; sampling values are sent explicitly.",
        "In the window: everything from the moment all users are there and have warmed up to the moment the "
        "first of them has nothing more to send. The ramp before and the drain after are not in it, because "
        "fewer users than asked are in flight then.",
        "Not in any figure: the cold start. Launch, loading the weights, compilation and each user's warm-up "
        "request come before; how long a launch took is told below.",
        "Failed requests are counted by themselves and never enter a latency. Tokens are those the server "
        "counted, never the pieces of text that came.",
        f"Each load was measured {words.plural(repeats, 'time')}; each repeat is a cell of its own in the "
        "table of all cells."
        if repeats
        else "Nothing was measured yet.",
    )


def pairable(run: Run) -> bool:
    """Whether there are two sides to treat alike."""
    return run.kind == "compare"


def glossary(run: Run, cells: Sequence[Cell]) -> tuple[Fact, ...]:
    """The terms of this page."""
    found = (one for cell in cells for name in LATENCIES for one in latency(cell, name).values())
    level = confidence([*found, *(row.ratio for row in run.comparisons)])
    terms = {
        "TTFT": "time to first token: from sending the request to the first piece of text. A first message that "
        "only names the role is no text.",
        "ITL": "inter-token latency: the gap between one token and the next while an answer streams.",
        "TPOT": "time per output token of one request: (E2E − TTFT) ÷ (output tokens − 1).",
        "E2E": "from sending the request to the end of its answer.",
        "tok/s": "output tokens of all users together, as the server counted them, per second of the window.",
        "p50, p95": "half, or 95 of 100, of the values are at or below this one. p50 is the median.",
        "Interval": f"the range that holds the true value{level}. For p50 and p95 it is bounded by measured values, "
        "whatever their distribution; where too few were measured for that, there is a dash and no figure.",
        "Ratio": "speed of the candidate ÷ speed of the baseline; for times the other way round, so that over 1× "
        "always means a faster candidate.",
        "Verdict": "faster, slower or same only where the whole interval says so; undecided otherwise.",
        "Cell": "one server, scenario, number of users and repeat. An invalid cell has figures that must not be "
        "trusted, a failed one has none; neither enters a ratio.",
        "Client": "the program that sends the requests. Near 1 core of CPU, or with a late clock (lag), it would "
        "measure itself.",
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
    """The words of a command line; one that a shell would refuse stays in one piece."""
    try:
        return shlex.split(command)
    except ValueError:
        return [command]


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
