"""A sweep into a result file with its progress on a console, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from lightning_bench.record import ResultFile
from lightning_bench.run.executor import Executor
from lightning_bench.run.plan import Plan
from lightning_bench.run.progress import make_watcher
from lightning_bench.run.sweep import Summary, run_sweep


def sweep_file(
    plan: Plan,
    path: Path,
    *,
    console: Console,
    say: Callable[[str], None],
    quiet: bool = False,
    fresh: bool = False,
    retry: bool = False,
    executor: Executor | None = None,
) -> Summary:
    """Measure the cases of `plan` that the file at `path` has no row of, and append them.

    Progress goes to `console`, and what has happened to the file to `say`. With `fresh` an existing file is
    set aside, with `retry` cases that failed are measured again. An `executor` measures on several slots.
    After a KeyboardInterrupt the file is whole.
    Raise UsageError or LbenchError if it cannot be written or has been changed by others.
    """
    with ResultFile(path, fresh=fresh) as file:
        if file.repaired:
            say(file.repaired)
        if file.moved:
            say(f"the earlier results are now {file.moved}")
        with make_watcher(console, f"{plan.suite} {plan.metric}", quiet=quiet) as watcher:
            summary = run_sweep(plan, file, watcher, retry=retry, executor=executor)
        file.check_unchanged()
    return summary
