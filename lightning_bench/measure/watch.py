"""Watches a job for what its providers do to their common process, and names them in their own rows.

Whenever work passes from one owner to the next, the state of the process is compared with that at the start
of the job and restored, and threads and child processes that are left are noted. A row that is `ok` becomes
`unstable` if its provider changed the conditions of its own samples: they were taken unlike all others.
"""

from __future__ import annotations

from dataclasses import replace

from lightning_bench.measure.job import Emit, Enter, Outcome
from lightning_bench.measure.leftovers import Leftovers
from lightning_bench.measure.process_state import ProcessState
from lightning_bench.measure.session import PoisonedError
from lightning_bench.record import Status

_NOTES = 4


class Watch:
    """Stands between a job and its `enter` and `emit`; `alone` if the job has one case only."""

    def __init__(self, enter: Enter, emit: Emit, *, alone: bool) -> None:
        self._enter, self._emit, self._alone = enter, emit, alone
        self._state, self._leftovers = ProcessState.read(), Leftovers()
        self._owner, self._phase = "", ""
        self._notes: dict[str, dict[str, None]] = {}
        self._own_conditions: set[str] = set()
        self._spoiled: tuple[str, str] | None = None

    def enter(self, case_id: str, phase: str) -> None:
        """Pass on that a phase begins. Raise PoisonedError if others cannot be measured in this process."""
        self._settle(children=phase != "samples" or self._phase != "samples")
        if not self._alone:
            self._assert_fit(case_id)
        self._owner, self._phase = case_id, phase
        self._enter(case_id, phase)

    def emit(self, outcome: Outcome) -> None:
        """Pass on an outcome, with what its provider has done to the process as part of the reason."""
        self._settle(children=True)
        case_id = outcome.case.id
        notes = list(self._notes.get(case_id, ()))
        notes += dict.fromkeys(str(x) for x in self._leftovers.found if x.owner == case_id and x.alive)
        if more := notes[_NOTES:]:
            notes[_NOTES:] = [f"and {len(more)} more such changes"]
        if notes:
            timed = outcome.figures.median_ms is not None or outcome.figures.mean_ms is not None
            status: Status = outcome.status
            if status == "ok" and timed and case_id in self._own_conditions:
                status = "unstable"
            reason = "; ".join(filter(None, [outcome.reason, *notes]))
            outcome = replace(outcome, status=status, reason=reason)
        self._emit(outcome)

    def excuse(self) -> None:
        """Take what the phase so far has changed or started for the harness's own, as torch.compile does."""
        self._state = ProcessState.read()
        self._leftovers.excuse()

    def reusable(self) -> bool:
        """Whether another job may be measured in this process."""
        self._settle(children=True)
        return self._spoiled is None and not any(leftover.alive for leftover in self._leftovers.found)

    def _settle(self, *, children: bool) -> None:
        for change in self._state.restore(quick=not children):
            self._notes.setdefault(self._owner, {})[str(change)] = None
            if not change.restored:
                self._spoiled = self._owner, change.text
            if change.setting.effect == "timing" and self._phase == "samples":
                self._own_conditions.add(self._owner)
        self._leftovers.note(self._owner, children=children)

    def _assert_fit(self, case_id: str) -> None:
        if self._spoiled is not None and self._spoiled[0] != case_id:
            raise PoisonedError(f"a case before it changed {self._spoiled[1]}, which cannot be restored")
        for leftover in self._leftovers.found:
            if leftover.owner != case_id and leftover.alive and leftover.busy:
                raise PoisonedError(f"a case before it uses the processor: {leftover}")
