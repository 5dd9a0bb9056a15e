"""Trial 0 of a study: vLLM's own defaults, which every candidate is compared with."""

from typing import Final

from harness.errors import EngineContextTooLong, EngineNotFound, MeasurementInvalid
from harness.progress import Progress
from harness.recording import Recording
from harness.records import Flags
from harness.tune.attempts import Attempts
from harness.tune.known import Known
from harness.tune.objectives import Scores, users_text
from harness.tune.plan import Plan
from harness.tune.resolution import too_few
from harness.tune.trials import trial_of

BASELINE_TRIES: Final = 2


class Defaults:
    """The baseline of a study."""

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        known: Known,
        attempts: Attempts,
        progress: Progress,
        *,
        scores: Scores,
    ) -> None:
        self._plan, self._recording, self._known, self._attempts = plan, recording, known, attempts
        self._progress, self._scores = progress, scores

    def measure(self) -> None:
        """Trial 0: vLLM's own defaults. One mended try where they do not start; a second failure ends the study."""
        flags: Flags = {}
        for attempt in range(1, BASELINE_TRIES + 1):
            self._recording.folder.set_aside_cells(whole_roles=())  # of an attempt that failed under load
            launched = self._attempts.measured(0, flags)
            error = launched.error
            if error is None:
                trial = trial_of(0, flags, launched, plan=self._plan, scores=self._scores, baseline=[])
                self._known.keep(trial, launched.cells)
                return
            if attempt == BASELINE_TRIES or isinstance(error, EngineNotFound):
                raise error
            self._progress.note(f"the baseline failed: {error.message}")
            if isinstance(error, EngineContextTooLong) and error.fits:
                flags = {"max-model-len": self._longest_step(error.fits)}
                self._recording.add_note(
                    f"vLLM's own defaults do not start here ({error.message}); the baseline is the defaults with "
                    f"--max-model-len {flags['max-model-len']}."
                )

    def _longest_step(self, tokens: int) -> int:
        return max((step for step in self._plan.profile.search.max_model_len if step <= tokens), default=tokens)

    def refuse_useless(self) -> None:
        """Raises: MeasurementInvalid where no candidate could be compared with what the baseline gave."""
        cells = self._known.cells_of(0)
        for one in self._plan.objectives:
            for users in one.levels:
                mine = [cell for cell in cells if cell.users == users]
                count = sum(self._scores.logarithm(cell, one) is not None for cell in mine)
                if count < 2:
                    doubts = sorted({reason for cell in mine for reason in cell.reasons}) or [too_few(mine, one)]
                    raise MeasurementInvalid(
                        f"the baseline has {count} valid repeats of {one.metric} at {users_text((users,))}, "
                        f"2 are needed: {'; '.join(doubts)}",
                        hint="run `harness doctor`; more --repeats or a longer scenario may help",
                    )
            if self._scores.is_none_kept(cells, one):
                self._progress.note(
                    f"not one request of the defaults kept {', '.join(self._plan.slos)} at {users_text(one.levels)}: "
                    "candidates of which none does either give no figure"
                )
