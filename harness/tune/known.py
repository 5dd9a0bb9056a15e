"""What a study knows: its trials and their cells, as they lie in its folder."""

from collections.abc import Sequence
from typing import Final

from harness import engines
from harness.records import Cell, Flags, Outcome, Trial
from harness.search import Demand, aim_of, demand_of, key_of
from harness.store import RunFolder
from harness.tune.objectives import told
from harness.tune.plan import Plan, role_of

CONTROL: Final = 1
"""The control's number: the lowest that workers take."""


class Known:
    """Trials and cells so far.

    Args:  is_alone: nobody else writes to the folder, so cells of a launch that never ended are set aside.
    """

    def __init__(self, plan: Plan, folder: RunFolder, *, is_alone: bool) -> None:
        self._plan, self._folder = plan, folder
        self.trials = list(folder.trials())
        whole = {(role_of(trial.number), 1) for trial in self.trials}
        whole |= {(one.role, one.block) for one in folder.defence()}
        if is_alone:
            folder.set_aside(lambda cell: (cell.role, cell.block) not in whole)
        self._cells = list(folder.cells())

    def keep(self, trial: Trial, cells: Sequence[Cell]) -> None:
        """One more trial, written down; its cells are on disk already."""
        self.trials = sorted([*self.trials, trial], key=lambda one: one.number)
        self._cells += cells
        self._folder.append_trial(trial)

    def refresh(self) -> None:
        """What other workers wrote."""
        self.trials = list(self._folder.trials())
        self._cells = list(self._folder.cells())

    def cells_of(self, number: int) -> list[Cell]:
        """Of a trial."""
        return [cell for cell in self._cells if cell.role == role_of(number)]

    # ------------------------------------------------------------ the control

    @property
    def has_control(self) -> bool:
        """Whether the first number of the workers is the control's: they disturb each other, the baseline was alone.

        A simulation has no company, and a study that went on with several workers later has none for its first ones.
        """
        is_taken = any(trial.number == CONTROL and trial.is_candidate for trial in self.trials)
        return self._plan.workers > 1 and not self._plan.is_simulated and not is_taken

    @property
    def control(self) -> Trial | None:
        """None: it is still to come, or there is none."""
        return next((trial for trial in self.trials if trial.is_control), None)

    def compared_with(self, worker: int | None) -> list[Cell]:
        """The cells that this worker's ratios are to: the control's, or the baseline's where it has no figures."""
        control = self.control
        is_measured = worker is not None and control is not None and control.outcome is Outcome.MEASURED
        return self.cells_of(control.number if is_measured and control is not None else 0)

    @property
    def most(self) -> int | None:
        """Numbers of trials there are to be besides the baseline's. None: as many as the time allows."""
        return None if self._plan.trials is None else self._plan.trials + self.has_control

    @property
    def has_enough(self) -> bool:
        """Whether as many candidates were tried as were asked for."""
        return self._plan.trials is not None and sum(one.is_candidate for one in self.trials) >= self._plan.trials

    def measured_before(self) -> dict[str, tuple[float, ...] | None]:
        """What was told of every candidate on disk."""
        trials = self._folder.trials()
        return {key_of(trial.flags): told(trial, self._plan.objectives) for trial in trials if trial.is_candidate}

    # ------------------------------------------------------------ what follows from the baseline

    @property
    def demand(self) -> Demand:
        """What the load asks for, as the baseline's server counted it."""
        prompts = [cell.prompt_tokens_mean for cell in self.cells_of(0) if cell.prompt_tokens_mean is not None]
        limits = [limit.metric for one in self._plan.objectives for limit in one.slos]
        return demand_of(
            self._plan.scenario,
            most_users=max(self._plan.users),
            prompt_tokens=max(prompts, default=None),
            aim=aim_of([*(one.metric for one in self._plan.objectives), *limits]),
        )

    def violations(self, flags: Flags) -> Sequence[str]:
        """Why flags are known not to work here."""
        longest = int(self.trials[0].flags.get("max-model-len", self._plan.model.shape.max_context_tokens))
        return engines.violations(flags, model_max_len=longest, needed_tokens=self.demand.needed_tokens)
