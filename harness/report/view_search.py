"""The settings that a run measured, and the search behind them, in words."""

from collections.abc import Sequence

from harness.records import DefenceLaunch, FlagValue, Run, Trial
from harness.report import serve, view_defence, view_front, view_progress, view_simulated, view_trials, words
from harness.report.page import Strip, Tile
from harness.report.page_parts import Fact
from harness.report.page_study import Settings
from harness.report.view_trials import failed, tried
from harness.report.words import Shown


def settings(run: Run, trials: Sequence[Trial], launches: Sequence[DefenceLaunch] = ()) -> Settings | None:
    """The command line of the judged vLLM and how its flags were found. None: no vLLM and no search."""
    command = serve.block(run)
    if not command and not trials:
        return None
    best = winner(run, trials)
    return Settings(
        command=command,
        notes=(*preset_notes(run), *filter(None, [serve.caveat(run)])),
        facts=search_facts(run, trials, launches),
        ladders=ladders(run),
        trials=view_trials.trial_rows(trials, best, is_simulated=view_simulated.is_search(run)),
        trial_notes=view_trials.trial_notes(run, trials),
        chart=view_trials.trial_chart(trials, best),
        lessons=view_trials.lessons(trials),
        stops=view_trials.stops(trials),
        progress=view_progress.charts(run, trials, launches),
        progress_notes=view_progress.chart_notes(run, trials),
        stages=view_progress.stages(trials, launches),
        stage_notes=view_progress.stage_notes(run, trials, launches),
        kept=view_front.kept_table(trials),
        front=view_front.front(run, trials),
        judged=view_defence.tables(run, trials),
        verdict=view_defence.verdict_text(run),
        preset=view_defence.preset_part(run),
    )


def winner(run: Run, trials: Sequence[Trial]) -> Trial | None:
    """The trial that won the finals, or undefended whose flags became the preset. None: the defaults, or none yet."""
    if run.preset is None or run.preset.is_default:
        return None
    if run.defence is not None and run.defence.winner is not None:
        return next((one for one in trials if one.number == run.defence.winner), None)
    same = [one for one in trials if one.is_candidate and one.flags == run.preset.flags and one.objective]
    return max(same, key=lambda one: one.objective.value if one.objective else 0.0, default=None)


# ---------------------------------------------------------------- what the search found


def headline(run: Run, trials: Sequence[Trial]) -> str:
    """Whether the winner beat vLLM's own defaults."""
    count = words.plural(len(tried(trials)), "trial")
    if run.preset is None:
        measured = [one.objective for one in tried(trials) if one.objective]
        best = max(measured, key=lambda found: found.value, default=None)
        so_far = f"; the best so far, not confirmed, reached {words.ratio(best)} of the defaults" if best else ""
        return f"No settings have been chosen yet, after {count}{so_far}."
    if run.preset.is_default or run.preset.ratio is None:
        again = ", not even when the best were measured again" if run.defence and run.defence.finals else ""
        return f"Nothing that was tried ({count}) was surely faster than vLLM's own defaults{again}: keep them."
    figure = words.ratio(run.preset.ratio)
    if run.preset.ratio.low <= 1:
        return f"The settings chosen reached {figure} of vLLM's own defaults; the interval does not show a gain."
    again = ", measured again on prompts that they were not chosen by" if run.preset.is_defended else ""
    return f"The settings found are {figure} as fast as vLLM's own defaults{again}, judged by the {meaning(run)}."


def objective(run: Run) -> str:
    """By what the search judged, in its own words."""
    return (run.preset.objective if run.preset else "") or run.objective


def meaning(run: Run) -> str:
    """The objective without its name: "balanced: geometric mean of …" → "geometric mean of …"."""
    name, _, told = objective(run).partition(": ")
    return told or (f"objective “{name}”" if name else "objective of the search")


def strip(run: Run, trials: Sequence[Trial], launches: Sequence[DefenceLaunch] = ()) -> Strip | None:
    """The search in counts. None: it has not begun."""
    if not trials:
        return None
    tiles = [
        Tile(name="settings tried", figure=Shown(text=f"{len(tried(trials))}")),
        Tile(name="of them without a figure", figure=Shown(text=f"{len(failed(trials))}")),
        *([Tile(name="launches to defend the winner", figure=Shown(text=f"{len(launches)}"))] if launches else []),
        Tile(name=time_name(run), figure=Shown(text=words.duration(sum(view_progress.walls_s(trials, launches))))),
    ]
    if run.preset and run.preset.ratio and not run.preset.is_default:
        tiles.insert(0, Tile(name="winner ÷ defaults", figure=words.ratio(run.preset.ratio)))
    return Strip(caption="", tiles=tuple(tiles))


def time_name(run: Run) -> str:
    """What the time is of."""
    return "simulated time spent" if run.is_simulated else "time spent"


def preset_notes(run: Run) -> list[str]:
    """Whether these settings beat the defaults, and whether they were found for what ran here."""
    preset, facts = run.preset, serve.chosen(run)
    if preset is None:
        is_judged = run.kind != "tune" and facts is not None
        return ["These settings were not found by a search."] if is_judged else []
    out = [against_defaults(run)]
    if facts and facts.version and preset.vllm_version and facts.version != preset.vllm_version:
        out.append(
            f"Found with vLLM {preset.vllm_version}, measured here with {facts.version}: search again before "
            "relying on them."
        )
    here = run.host.gpu or run.host.cpu
    if preset.gpu_title and preset.gpu_title != here and not preset.is_simulated:
        out.append(f"Found on {preset.gpu_title}, measured here on {here}.")
    return out


def against_defaults(run: Run) -> str:
    """The winner against trial 0."""
    preset = run.preset
    if preset is None or preset.is_default:
        return "Nothing that was tried was surely faster than vLLM's own defaults, so these are the defaults."
    if preset.ratio is None:
        return "It is not known how these settings compare with vLLM's own defaults."
    figure = words.ratio(preset.ratio)
    where = "In the finals of the search" if preset.is_defended else "In the search"
    if preset.ratio.low > 1:
        return f"{where} these settings beat vLLM's own defaults: {figure}."
    if preset.ratio.high < 1:
        return f"{where} these settings were slower than vLLM's own defaults: {figure}."
    return f"It is open whether these settings beat vLLM's own defaults: {figure}."


def search_facts(run: Run, trials: Sequence[Trial], launches: Sequence[DefenceLaunch] = ()) -> tuple[Fact, ...]:
    """What was asked, and where the settings come from."""
    preset, asked = run.preset, run.asked
    found_in = (run.tuned_in or preset.run) if preset else ""
    means = {f"{name}: {meaning}": None for name, meaning in asked.objectives.items()} if asked else {}
    facts = {
        "Objective": "; ".join(means) or objective(run),
        "Limits": words.listed(asked.slos) if asked else "",
        "Loads": asked_loads(run),
        "Asked for": asked_spending(run),
        "Found by": f"run {found_in}" if found_in else "",
        "Found on": f"{preset.gpu_title}, vLLM {preset.vllm_version}{simulated(run)}" if preset else "",
        "Trials": f"{len(tried(trials))} besides the defaults, of which {len(failed(trials))} gave no figure"
        if trials
        else "",
        "Time spent": words.duration(sum(view_progress.walls_s(trials, launches))) if trials else "",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)


def simulated(run: Run) -> str:
    """A word behind what a simulation found."""
    return " (simulated)" if run.preset and run.preset.is_simulated else ""


def asked_loads(run: Run) -> str:
    """ "1, 10 and 50 users, 2 repeats each"; empty where it is not known."""
    if run.asked is None:
        return ""
    users = words.listed([str(count) for count in sorted(run.asked.users)])
    one = run.asked.users == (1,)
    return f"{users} {'user' if one else 'users'}, {words.plural(run.asked.repeats, 'repeat')} of each in one launch"


def asked_spending(run: Run) -> str:
    """Trials and budget; empty where they are not known."""
    if run.asked is None:
        return ""
    trials = "" if run.asked.trials is None else f"at most {words.plural(run.asked.trials, 'trial')}"
    budget = "" if run.asked.budget_s is None else f"a budget of {words.duration(run.asked.budget_s)}"
    defence = "" if run.asked.is_defended else "no defence of the winner"
    return ", ".join(filter(None, (trials, budget, defence)))


def ladders(run: Run) -> tuple[tuple[str, str], ...]:
    """Flags and the values that the search might try."""
    found = () if run.asked is None else run.asked.ladders
    return tuple((f"--{one.flag}", ", ".join(step_text(one.flag, step) for step in one.steps)) for one in found)


def step_text(flag: str, step: FlagValue | None) -> str:
    """A value; one that is not sent is vLLM's own."""
    return "vLLM's own" if step is None else words.shown_value(flag, step)
