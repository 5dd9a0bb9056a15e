"""Repeats of one load taken together, and where a figure lies in the records."""

@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The valid repeats of one load: geometric mean, smallest and largest."""

    value: float
    low: float
    high: float
    repeats: int

    def shown(self, metric: str) -> Shown:
        """With its range, where there is more than one repeat."""
        shown = words.ranged(metric, self.value, self.low, self.high)
        return shown if self.repeats > 1 else Shown(text=shown.text)


def pooled(cells: Sequence[Cell], side: Side, scenario: str, users: int, metric: str) -> Pooled | None:
    """One side's valid repeats at one load. None: there is none with this metric."""
    values = [
        found.value
        for cell in cells
        if (cell.role, cell.scenario, cell.users, cell.state) == (side.role, scenario, users, CellState.MEASURED)
        and (found := estimate_of(cell, metric)) is not None
    ]
    if not values:
        return None
    return Pooled(
        value=words.geometric_mean(values), low=min(values), high=max(values), repeats=len(values)
    )


def estimate_of(cell: Cell, metric: str) -> Estimate | None:
    """A cell's estimate by its metric's name. None: it has none."""
    if metric == "output_tok_s":
        return cell.output_tok_s
    name, stat = words.split_metric(metric)
    return latency(cell, name).get(stat)


def latency(cell: Cell, name: str) -> Metric:
    """A cell's statistics of one latency."""
    return {"ttft_s": cell.ttft_s, "itl_s": cell.itl_s, "tpot_s": cell.tpot_s, "e2e_s": cell.e2e_s}.get(name, {})


def scenario_names(run: Run, cells: Sequence[Cell]) -> list[str]:
    """Those the run declares, then any that only its cells know."""
    return list(dict.fromkeys([*(one.name for one in run.scenarios), *(cell.scenario for cell in cells)]))


def scenario_title(run: Run, name: str) -> str:
    """The title where the run has one, else the name."""
    return next((one.title for one in run.scenarios if one.name == name and one.title), name)


def titled(scenario: Scenario) -> str:
    """Title and, where it says something else, the name that `--scenario` takes."""
    same = scenario.title.casefold() == scenario.name.casefold() or not scenario.title
    return scenario.name if same else f"{scenario.title} ({scenario.name})"


def users_of(cells: Sequence[Cell], scenario: str) -> list[int]:
    """The ladder that was climbed."""
    return sorted({cell.users for cell in cells if cell.scenario == scenario})
