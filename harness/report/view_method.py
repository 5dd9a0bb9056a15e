"""How it was measured, on what, how to repeat it and what it does not show, in words."""

import shlex
from collections.abc import Sequence
from typing import Final

from harness.records import Cell, ClosedLoop, Load, OpenLoop, Replay, Run, Scenario, Trial, Workload
from harness.report import words
from harness.report.figures import blocks_of, latencies, levels_of, repeats_of
from harness.report.page_parts import Fact, ScenarioTable
from harness.stats import estimate, summary

ARRIVALS: Final = {
    "poisson": "by chance (Poisson)",
    "constant": "at even distances",
    "ramp": "at a rate that rises evenly from 0",
}


def titled(scenario: Scenario) -> str:
    """Title and, where it says something else, the name that `--scenario` takes."""
    same = scenario.title.casefold() == scenario.name.casefold() or not scenario.title
    return scenario.name if same else f"{scenario.title} ({scenario.name})"


# ---------------------------------------------------------------- scenarios


def scenario_table(run: Run, cells: Sequence[Cell]) -> ScenarioTable | None:
    """Every value of every scenario. None: the run names none."""
    if not run.scenarios:
        return None
    columns = [scenario_facts(one, [c for c in cells if c.scenario == one.name]) for one in run.scenarios]
    names = dict.fromkeys(name for column in columns for name in column)
    return ScenarioTable(
        titles=tuple(titled(one) for one in run.scenarios),
        rows=tuple((name, tuple(column.get(name, "does not apply") for column in columns)) for name in names),
    )


def scenario_facts(scenario: Scenario, cells: Sequence[Cell]) -> dict[str, str]:
    """Every value of a scenario by its name for people."""
    work = scenario.workload
    repeats, blocks = repeats_of(cells), blocks_of(cells)
    launches = f", over {blocks} launches of each server" if blocks > 1 else ""
    return {
        "Load": load_words(scenario.load),
        "Levels": levels_words(scenario, cells),
        "Repeats": f"{repeats}{launches}" if repeats else "none yet",
        **held_facts(scenario.load),
        "Prompt": prompt_words(work) + measured_tokens(cells, "prompt_tokens_mean"),
        **conversation_facts(work),
        "Answer": f"{words.plural(work.output_tokens, 'token')}, {'streamed' if work.is_streamed else 'in one piece'}"
        + measured_tokens(cells, "output_tokens_mean"),
        "Sampling": words.sampling(work.sampling),
    }


def load_words(load: Load) -> str:
    """Who sends when."""
    match load:
        case ClosedLoop(ramp_s=ramp_s):
            come = f"; the users come one after another over {words.duration(ramp_s)}" if ramp_s else ""
            return f"closed loop: each user sends the next request when the last answer has ended{come}"
        case OpenLoop(arrivals=arrivals):
            return (
                f"open loop: requests come {ARRIVALS[arrivals]}, whether or not the ones before have ended; "
                "latencies count from the moment a request was due"
            )
        case Replay(trace=trace, speed=speed):
            fast = "" if speed == 1 else f", {speed:g} times as fast"
            return f"replay of {trace}{fast}: requests at recorded moments, of recorded lengths"


def levels_words(scenario: Scenario, cells: Sequence[Cell]) -> str:
    """The loads, and which of them were left out."""
    planned = list(scenario.levels)
    done = levels_of(cells, scenario.name) or planned
    left_out = [level for level in planned if level not in done]
    return words.loads(done) + (f" (left out: {words.loads(left_out)})" if left_out else "")


def held_facts(load: Load) -> dict[str, str]:
    """How long a load is held and what is cut off."""
    limit = f"{words.duration(load.request_timeout_s)} for one request"
    match load:
        case ClosedLoop():
            return {
                "Requests": f"at least {load.requests_per_user} per user and {load.min_requests} in all",
                "Time": f"at least {words.duration(load.min_s)}; nothing is sent after {words.duration(load.max_s)}",
                "Warm-up": f"the same load until it is steady, at most {words.duration(load.warmup_max_s)}",
                "Time limit": limit,
            }
        case OpenLoop():
            return {
                "Time": f"requests are due for {words.duration(load.duration_s)}",
                "Warm-up": "none: the rate rises from 0"
                if load.arrivals == "ramp"
                else f"the same load for {words.duration(load.warmup_s)}",
                "Under way": f"at most {load.max_in_flight:,} requests; one more is not sent and counts as failed",
                "Time limit": limit,
            }
        case Replay():
            return {
                "Under way": f"at most {load.max_in_flight:,} requests; one more is not sent and counts as failed",
                "Time limit": limit,
            }


def prompt_words(work: Workload) -> str:
    """How long, and what is shared."""
    own = f"{words.plural(work.prompt_words, 'English word')}, others in every request"
    shared = work.shared_prefix_words
    return f"{own}, after {words.plural(shared, 'word')} that all share" if shared else own


def conversation_facts(work: Workload) -> dict[str, str]:
    """None for single requests."""
    if work.turns < 2:
        return {}
    return {"Conversation": f"{work.turns} turns, each of which sends all that was said before; then a new one begins"}


def measured_tokens(cells: Sequence[Cell], field: str) -> str:
    """What the servers counted, over all cells of the scenario; empty where none did."""
    means = [mean for cell in cells if (mean := getattr(cell, field)) is not None]
    if not means:
        return ""
    low, high = words.number(min(means)), words.number(max(means))
    counted = low if low == high else f"{low} to {high}"
    return f"; counted by the servers: {counted} tokens"


# ---------------------------------------------------------------- method and terms


def method(run: Run, cells: Sequence[Cell]) -> tuple[Fact, ...]:
    """What is in a figure and what is not."""
    loads = {type(one.load) for one in run.scenarios}
    is_compare = run.kind == "compare"
    same = "Both sides get the same prompts, load by load and repeat by repeat, " if is_compare else "Prompts are "
    facts = {
        "Prompts": f"{same}made from the random seed {run.seed}. Sampling values are sent with every request, so that "
        "no server's own defaults enter.",
        "Order": order_words(cells) if is_compare else "",
        "Warm-up": "The load is held from the first moment on, and a level's first repeat in a launch is warmed up "
        "until two laps in a row are alike (a lap: as many answers as there are users), later repeats for one lap. "
        "What is sent before measuring begins is in no latency."
        if ClosedLoop in loads
        else "",
        "In the window": window_words(loads),
        "Cold start": "In no figure: launch, loading the weights and compilation end before measuring begins. How "
        "long a launch took is listed with each server.",
        "Failures": f"Counted by themselves; they never enter a latency. Over "
        f"{words.percent(summary.MAX_FAILURE_RATIO)} of them makes a cell invalid.",
        "Tokens": "As the server counted them, never the pieces of text that came.",
        "Repeats": repeats_words(cells),
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)


def order_words(cells: Sequence[Cell]) -> str:
    """In which order the servers were launched."""
    launches = dict.fromkeys((cell.role, cell.block) for cell in cells)
    if blocks_of(cells) < 2:
        return "Each server was launched once, one after the other."
    roles = words.listed([role for role, _ in launches], last="then")
    return f"The servers took turns, each launched anew: {roles}. So drift of the machine falls on both sides."


def window_words(loads: set[type]) -> str:
    """Which stretch of a cell its figures are of."""
    out = []
    if ClosedLoop in loads or not loads:
        out.append(
            "The stretch after warm-up in which at least 95% of the users are at work, "
            "less a start in which throughput was still surely different (found by MSER)."
        )
    if loads - {ClosedLoop}:
        out.append("For requests that come by themselves: from the end of the warm-up to when the last one was due.")
    out.append(
        "Throughput counts the tokens that arrive inside it; latencies are of the requests that began inside it and "
        "ended well, however late."
    )
    return " ".join(out)


def repeats_words(cells: Sequence[Cell]) -> str:
    """How often, and where the interval of a ratio comes from."""
    repeats = repeats_of(cells)
    if not repeats:
        return "Nothing was measured yet."
    launches = f" over {blocks_of(cells)} launches" if blocks_of(cells) > 1 else ""
    return (
        f"Each load was measured {'once' if repeats == 1 else f'{repeats} times'}{launches}. Each repeat is a cell "
        "of its own in the table of all cells, and a ratio's interval comes from how far launches and repeats differ."
    )


def glossary(run: Run, cells: Sequence[Cell]) -> tuple[Fact, ...]:
    """The terms of this page."""
    level = words.confidence([*latencies(cells), *(row.ratio for row in run.comparisons)])
    is_open = any(not isinstance(one.load, ClosedLoop) for one in run.scenarios)
    begin = "from the moment the request was due" if is_open else "from sending the request"
    terms = {
        "TTFT": f"time to first token: {begin} to the first piece of text. A first message that only names the role is "
        "no text.",
        "ITL": "inter-token latency: the gap between one token and the next while an answer streams; the gap "
        "before a piece of several tokens is shared among them.",
        "TPOT": "time per output token of one request: (E2E − TTFT) ÷ (output tokens − 1).",
        "E2E": f"{begin} to the end of its answer.",
        "tok/s": "output tokens of all users together, as the server counted them, per second of the window.",
        "req/s": "answers that ended well, per second of the window.",
        "p50, p95": "half, or 95 of 100, of the values are at or below this one. p50 is the median.",
        "Interval": f"the range that holds the true value{level}. For p50 and p95 two measured values bound it, "
        "whatever the distribution (gaps within one answer resemble each other, so for ITL it comes from how "
        "much whole answers differ); for tok/s it comes from ten slices of the window. Too few values give a dash, not "
        "a guess.",
        "Ratio": "speed of the candidate ÷ speed of the baseline; for times the other way round, so that over 1× "
        "always means a faster candidate. Its interval is Welch's over the launches, and no narrower than that of "
        f"{estimate.BOOTSTRAP_DRAWS:,} samples drawn anew from launches and repeats (bootstrap).",
        "Verdict": "faster, slower or same only where the whole interval says so; undecided otherwise.",
        "Cell": "one server, scenario, load and repeat. An invalid cell has figures that must not be trusted, a failed "
        "one has none; neither enters a ratio. A flagged cell counts, with a word of caution.",
        "Block": "one launch of a server, with all cells that were measured before it was stopped."
        if blocks_of(cells) > 1
        else "",
        "Ceiling": "what the card's memory bandwidth and arithmetic allow at most, by its data sheet."
        if any(cell.ceilings for cell in cells)
        else "",
        "Client": "the program that sends the requests. Using nearly a whole core, or waking up late (lag), it would "
        "measure itself; such cells are invalid.",
    }
    return tuple(Fact(name=name, text=text) for name, text in terms.items() if text)


# ---------------------------------------------------------------- machine, repetition, limits


def machine(run: Run) -> tuple[Fact, ...]:
    """Where it ran."""
    host = run.host
    facts = {
        "GPU": f"simulated: {run.gpu}" if run.is_simulated else host.gpu or "none that could be seen",
        "GPU memory": "" if host.gpu_memory_bytes is None else words.gib(host.gpu_memory_bytes),
        "GPU power limit": power_limit(run),
        "GPU driver": host.gpu_driver or "",
        "Profile": run.gpu,
        "CPU": f"{host.cpu}, {words.plural(host.cores, 'core')}",
        "Memory": words.gib(host.memory_bytes),
        "System": host.os,
        "Python": host.python,
        "Harness": f"{run.harness_version} (results version {run.version})",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)


def power_limit(run: Run) -> str:
    """ "300 W, set below the usual 450 W"; empty where it is not known."""
    limit_w, usual_w = run.host.gpu_power_limit_w, run.host.gpu_default_power_limit_w
    if limit_w is None:
        return ""
    said = f"{words.number(limit_w)} W"
    if usual_w is None or limit_w >= usual_w or words.number(limit_w) == words.number(usual_w):
        return said
    return f"{said}, set below the usual {words.number(usual_w)} W"


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
    is_closed = any(isinstance(one.load, ClosedLoop) for one in run.scenarios)
    closed = (
        "The load is a closed loop: a slow server is asked less often. Requests that arrive by themselves would "
        "wait longer in a queue than these did."
    )
    return (
        *run.notes,
        "The figures hold for this machine, model, prompts and these versions; each is part of the result.",
        *([closed] if is_closed or not run.scenarios else []),
    )


def raw_files(run: Run, trials: Sequence[Trial]) -> tuple[Fact, ...]:
    """Where every figure of this page can be checked."""
    folder = f"results/{run.id}"
    facts = {
        f"{folder}/run.json": "the run: machine, versions, flags, what was equal and what was not, comparisons",
        f"{folder}/cells.jsonl": "every cell with its estimates",
        f"{folder}/trials.jsonl": "every trial of the search" if trials else "",
        f"{folder}/defence.jsonl": "every launch of the defence of its winner" if run.defence else "",
        f"{folder}/plan.json, study.journal": "what the search needs to go on" if run.kind == "tune" else "",
        f"{folder}/requests/": "every request with the time of each piece of its answer, and the client's account",
        f"{folder}/telemetry/": "memory, CPU and GPU readings on the same clock",
        f"{folder}/engine-*.log": "what the servers said",
        "results/README.md": "what every field of these files means, every formula and every limit",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)
