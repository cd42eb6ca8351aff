"""The outcomes of a job's cases: what a provider raises becomes a status, and each case gets one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from lightning_bench.case import Case
from lightning_bench.errors import Unavailable
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.job import CaseEnded, Emit, Enter, Job, Outcome
from lightning_bench.measure.session import PoisonedError, Session
from lightning_bench.providers import get_provider, load_error
from lightning_bench.providers.registry.base import Provider

_OOM_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_NO_DRIVER = "0 active drivers"  # all that Triton says where it finds no GPU
_NO_GPU = " Triton finds no GPU: with TRITON_INTERPRET=1 its kernels run on a CPU, to be checked"


class Outcomes:
    """Emits the outcomes of a job's cases, and knows which have one; `enter` is called before the work."""

    def __init__(self, session: Session, job: Job, enter: Enter, emit: Emit) -> None:
        self.emitted: list[Case] = []
        self._session, self._job, self._enter, self._emit = session, job, enter, emit
        self.note_threads()

    def note_threads(self) -> None:
        """Take the number of threads that torch has now, on a CPU, for that of the cases that follow."""
        # To this number the watch sets torch back before each turn; who changes it has that in its row.
        self._cpu_threads = torch.get_num_threads() if self._session.device == "cpu" else None

    def emit(self, outcome: Outcome) -> None:
        """Give a case its outcome."""
        self.emitted.append(outcome.case)
        self._emit(replace(outcome, figures=replace(outcome.figures, cpu_threads=self._cpu_threads)))

    @contextmanager
    def of(self, case: Case, *, oom_ends: bool = True) -> Iterator[None]:
        """Turn what a provider raises into the case's outcome; a lost device ends the whole process.

        Unless `oom_ends`, running out of memory is raised.
        """
        try:
            yield
            return
        except PoisonedError:
            raise
        except CaseEnded as ended:
            outcome = Outcome(case, ended.status, ended.reason, ended.figures)
        except (Exception, SystemExit) as error:
            self._session.assert_alive(error)
            if isinstance(error, (RuntimeError, MemoryError)) and is_oom(error):
                if not oom_ends:
                    raise
                outcome = Outcome(case, "oom", load_error(error))
            else:
                hint = _NO_GPU if _NO_DRIVER in str(error) else ""
                outcome = Outcome(case, "crashed", load_error(error) + hint)
        self.emit(outcome)

    def loaded(self) -> list[tuple[Case, Provider]]:
        """Return the cases whose provider loads and takes them; the others get their outcome here."""
        loaded = []
        for case in self._job.cases:
            with self.of(case):
                self._enter(case.id, "load")
                provider = get_provider(case.provider)
                try:
                    provider.load()
                except (ImportError, OSError, Unavailable) as error:
                    raise CaseEnded("unavailable", load_error(error)) from error
                if reason := GUARD.replaced():
                    raise CaseEnded("wrong", reason)
                if reason := provider.unsupported(case.shape, case.direction):
                    raise CaseEnded("unsupported", reason)
                loaded.append((case, provider))
        return loaded


def unless_oom(judge: Callable[[], str | None]) -> tuple[str | None, bool]:
    """Return the reason that a judge gives, or None, and whether there was memory for it."""
    try:
        return judge(), True
    except RuntimeError as error:
        if not is_oom(error):
            raise
        return None, False


def is_oom(error: BaseException) -> bool:
    """Whether device or host memory is exhausted, in the words of torch, CUDA and Python."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in _OOM_WORDS)
