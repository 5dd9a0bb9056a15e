"""The settings that a run measured and the search behind them, in words."""

def settings(run: Run, trials: Sequence[Trial], sides: Sequence[Side]) -> Settings | None:
    """The command line of the judged vLLM and the search behind it. None: no vLLM and no search."""
    side = next((one for one in sides if one.look == 1 and one.facts and one.facts.engine == "vllm"), None)
    facts = side.facts if side else None
    if run.kind == "tune" and winner(run, trials) is None:
        # What sides_of found is the defaults; the settings chosen are the preset's, if there is one.
        facts = facts if run.preset is None or run.preset.is_default else None
    if facts is None and run.preset is None and not trials:
        return None
    flags = facts.flags if facts else run.preset.flags if run.preset else None
    command, note = serve_line(run, flags, facts) if flags is not None else ("", "")
    return Settings(
        command=command,
        notes=tuple(text for text in (note, *preset_notes(run, facts)) if text),
        facts=search_facts(run, trials),
        trials=trial_rows(run, trials),
        trial_notes=trial_notes(run, trials),
        chart=trial_chart(run, trials),
    )


def serve_line(run: Run, flags: Flags, facts: EngineFacts | None) -> tuple[str, str]:
    """`vllm serve MODEL --flag …`, quoted for a shell, and what to replace in it."""
    source = hub_id(facts.argv) if facts else ""
    note = "" if source else f"Put the Hugging Face id or the folder of the weights in place of {run.model}."
    env = facts.env if facts else {}
    first = " ".join(
        [
            *(f"{name}={shlex.quote(words.shown_value(name, value))}" for name, value in env.items()),
            "vllm serve",
            shlex.quote(source or run.model),
        ]
    )
    lines = [first]
    for name, value in flags.items():
        lines.append("  " + " ".join(shlex.quote(word) for word in words.flag_words({name: value})))
    return (" \\\n".join(lines) if len(lines) > 2 else " ".join(line.strip() for line in lines)), note


def hub_id(argv: Sequence[str]) -> str:
    """The model in a vLLM command line, if it is an id of a hub; empty where it is a folder of that machine."""
    for name, value in zip(argv, argv[1:], strict=False):
        if name in {"--model", "serve"} and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", value):
            return value
    return ""


def preset_notes(run: Run, facts: EngineFacts | None) -> list[str]:
    """Whether these settings beat the defaults, and whether they were found for what runs here."""
    preset = run.preset
    if preset is None:
        return []
    out = [against_defaults(run)]
    if facts and facts.version and preset.vllm_version and facts.version != preset.vllm_version:
        out.append(
            f"Found with vLLM {preset.vllm_version}, measured here with {facts.version}: search again "
            "before relying on it."
        )
    if run.host.gpu and preset.gpu_title and preset.gpu_title != run.host.gpu:
        out.append(f"Found on {preset.gpu_title}, measured here on {run.host.gpu}.")
    return out


def against_defaults(run: Run) -> str:
    """The winner against trial 0."""
    preset = run.preset
    if preset is None:
        return ""
    if preset.is_default:
        return "Nothing that was tried beat vLLM's own defaults, so these are the defaults."
    if preset.ratio is None:
        return "It is not known how these settings compare with vLLM's own defaults."
    figure = words.ratio(preset.ratio)
    if preset.ratio.low > 1:
        return f"These settings beat vLLM's own defaults: {figure}."
    if preset.ratio.high < 1:
        return f"These settings are slower than vLLM's own defaults: {figure}."
    return f"It is open whether these settings beat vLLM's own defaults: {figure}."


def search_facts(run: Run, trials: Sequence[Trial]) -> tuple[Fact, ...]:
    """Where the settings come from."""
    preset = run.preset
    tried = sum(1 for one in trials if one.number)
    failed = sum(1 for one in trials if one.number and one.outcome is not Outcome.MEASURED)
    facts = {
        "Objective": run.objective or (preset.objective if preset else ""),
        "Found by": f"run {run.tuned_in or preset.run}" if preset and (run.tuned_in or preset.run) else "",
        "Found on": f"{preset.gpu_title}, vLLM {preset.vllm_version}" if preset else "",
        "Trials": f"{tried} besides the defaults, of which {failed} gave no figure" if trials else "",
        "Time spent": words.duration(sum(one.wall_s for one in trials)) if trials else "",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)


def trial_rows(run: Run, trials: Sequence[Trial]) -> tuple[TrialRow, ...]:
    """All trials in the order asked, the failed ones too."""
    best = winner(run, trials)
    span = log_span(one.objective for one in trials)
    return tuple(trial_row(one, span, is_winner=one is best) for one in by_number(trials))


def by_number(trials: Sequence[Trial]) -> list[Trial]:
    """In the order asked."""
    return sorted(trials, key=lambda one: one.number)


def trial_row(trial: Trial, span: tuple[float, float], *, is_winner: bool) -> TrialRow:
    """One line of the trials table."""
    is_base = trial.number == 0 and trial.outcome is Outcome.MEASURED and trial.objective is None
    over = [f"{name} by {words.number(value)}" for name, value in trial.constraints.items() if value > 0]
    reason = "; ".join(text for text in (trial.reason, f"over the limit: {', '.join(over)}" if over else "") if text)
    return TrialRow(
        number=trial.number,
        badge=words.outcome_badge(trial.outcome),
        objective=Shown(text="1×", interval="by definition") if is_base else words.ratio(trial.objective),
        bar=bar(trial.objective, span),
        flags=flag_texts(trial.flags) or ("vLLM's defaults",),
        launch=words.duration(trial.launch_s) if trial.launch_s is not None else DASH,
        wall=words.duration(trial.wall_s),
        reason=reason,
        is_winner=is_winner,
    )


def flag_texts(flags: Flags) -> tuple[str, ...]:
    """One text per flag, as vLLM takes it."""
    return tuple(shlex.join(words.flag_words({name: value})) for name, value in flags.items())


def trial_notes(run: Run, trials: Sequence[Trial]) -> tuple[str, ...]:
    """How to read the trials."""
    if not trials:
        return ()
    level = confidence(one.objective for one in trials)
    out = [f"The objective is a ratio to trial 0, vLLM's own defaults; in brackets its interval{level}."]
    if run.tuned_in:
        out.append(f"The search is run {run.tuned_in}; its trials were copied here.")
    if any(one.outcome is not Outcome.MEASURED for one in trials):
        out.append("Settings that failed stay in the list: they tell where the limits of this machine are.")
    if run.preset and not run.preset.is_default and winner(run, trials) is None:
        out.append("The settings chosen are no trial of this list as a whole: flags without effect were taken out.")
    return tuple(out)


def trial_chart(run: Run, trials: Sequence[Trial]) -> TrialChart | None:
    """The search as rows of flags and intervals. None: no trial but the defaults."""
    if not any(one.number for one in trials):
        return None
    ordered = by_number(trials)
    flags = varied(ordered)
    best = winner(run, ordered)
    marks = tuple(
        TrialMark(
            name=f"{one.number}",
            values=tuple(words.shown_value(flag, one.flags[flag]) if flag in one.flags else "·" for flag in flags),
            objective=(one.objective.low, one.objective.value, one.objective.high) if one.objective else None,
            says=trial_says(one),
            is_winner=one is best,
        )
        for one in ordered
    )
    told = (f"trial {mark.name}: {words.ratio(one.objective) if one.objective else mark.says}"
            for mark, one in zip(marks, ordered, strict=True))
    return TrialChart(
        name="trials",
        title="Objective of each trial, against vLLM's own defaults",
        flags=flags,
        marks=marks,
        description=f"{'; '.join(told)}.",
    )


def trial_says(trial: Trial) -> str:
    """What stands in the chart where there is no interval, or beside one that does not count."""
    if trial.outcome is not Outcome.MEASURED:
        return trial.outcome.value
    return "" if trial.objective else "the defaults" if trial.number == 0 else "no figure"


def varied(trials: Sequence[Trial]) -> tuple[str, ...]:
    """The flags in which the trials differ."""
    names = dict.fromkeys(name for one in trials for name in one.flags)
    return tuple(name for name in names if len({repr(one.flags.get(name)) for one in trials}) > 1)
