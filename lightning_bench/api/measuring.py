"""`speed`, `memory` and `check`: measure kernels from Python as the commands of these names do."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack, cast

from rich.console import Console

from lightning_bench.api.arguments import (
    MeasureOptions,
    SpeedOptions,
    check_names,
    listed,
    overrides_of,
    settings_of,
    slots_of,
)
from lightning_bench.api.measurement import Measurement
from lightning_bench.api.python_names import python_names
from lightning_bench.api.session_source import file_source, name_of
from lightning_bench.case import FAMILIES, Family, Metric
from lightning_bench.errors import UsageError
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.measure.foreign import busy_now
from lightning_bench.providers import Provider, forget_declared
from lightning_bench.providers.registry.specs import refuse_other_marks
from lightning_bench.run.planner import Planner, check_providers
from lightning_bench.run.shown import sweep_file
from lightning_bench.run.sweep import crew_of
from lightning_bench.suite import Overrides, parse_providers

Measurable = Callable[..., Any] | type[Provider] | str
"""A plain function, a provider class, or a name of the command line such as `flash2` or `mine.py:attn`."""


def speed(
    kernel: Measurable | Sequence[Measurable] | None = None,
    /,
    *,
    family: Family | None = None,
    against: Measurable | Sequence[Measurable] = (),
    suite: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[SpeedOptions],
) -> Measurement:
    """Measure how long each case takes, correctness first.

    `kernel` runs beside `against`, in turns, at the shapes of `suite`; without a kernel the suite's providers
    run. `family` says what plain functions compute. `out` is the CSV to append to, whose rows are not
    measured again; without it the rows are in memory only. Times are in ms. UsageError says what is wrong
    with the call before anything runs; cases that fail have rows.
    """
    return _measure("speed", _Asked(kernel, family, against), suite, out, options)


def memory(
    kernel: Measurable | Sequence[Measurable] | None = None,
    /,
    *,
    family: Family | None = None,
    against: Measurable | Sequence[Measurable] = (),
    suite: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[MeasureOptions],
) -> Measurement:
    """Measure how much memory each case adds, in MiB; see `speed` for the arguments."""
    return _measure("memory", _Asked(kernel, family, against), suite, out, cast(SpeedOptions, options))


def check(
    kernel: Measurable | Sequence[Measurable] | None = None,
    /,
    *,
    family: Family | None = None,
    against: Measurable | Sequence[Measurable] = (),
    suite: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[MeasureOptions],
) -> Measurement:
    """Compare each case with fp64, without timing it; see `speed` for the arguments."""
    return _measure("check", _Asked(kernel, family, against), suite, out, cast(SpeedOptions, options))


class _Asked(NamedTuple):
    """Who is measured: the arguments of these names."""

    kernel: Any
    family: Family | None
    against: Any


@python_names()
def _measure(
    metric: Metric, asked: _Asked, suite: str | Path | None, out: str | Path | None, options: SpeedOptions
) -> Measurement:
    known = SpeedOptions if metric == "speed" else MeasureOptions
    check_names(options, known.__annotations__, f"{metric}()")
    forget_declared()
    is_quiet = not options.get("progress", True)
    console = Console(
        stderr=True,
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,  # plain lines in a notebook: a live display needs widgets there
        force_terminal=sys.stderr.isatty(),
    )

    def say(message: str) -> None:
        if not is_quiet:
            console.print(message, soft_wrap=True)

    with ExitStack() as stack, ExitStack() as measuring:
        folder = stack.enter_context(scratch_folder())
        overrides = overrides_of(options, _providers(asked, options, folder))
        settings = settings_of(options)
        slots = measuring.enter_context(closing(slots_of(options)))
        planner = Planner(metric, overrides, replace(settings, machine=slots.machine))
        plan = slots.part(planner.plan(planner.load(None if suite is None else str(suite))))
        path = folder / f"{plan.suite}-{metric}.csv" if out is None else Path(out).expanduser()
        if metric == "speed" and (busy := busy_now(plan.device, slots.gpus)):
            say(f"{busy}; what is measured beside foreign load is unstable")
        summary = sweep_file(
            plan,
            path,
            console=console,
            say=say,
            quiet=is_quiet,
            fresh=options.get("fresh", False),
            retry=options.get("retry", False),
            executor=measuring.enter_context(slots.executor(crew_of(plan))),
        )
        result = Measurement(summary, path, is_kept=out is not None)
        weakref.finalize(result, stack.pop_all().close)  # the folder goes with the result
    return result


def _providers(asked: _Asked, options: SpeedOptions, folder: Path) -> Overrides:
    """Return who runs, by specs; functions and classes become files in `folder`."""
    family, layout = asked.family, options.get("layout")
    kernels = [] if asked.kernel is None else listed(asked.kernel)
    against, providers = listed(asked.against), listed(options.get("provider", ()))
    check_providers(kernels, against, providers)
    if layout is not None and family is None:
        raise UsageError("layout goes only with family")
    texts = [each for each in [*kernels, *against, *providers] if isinstance(each, str)]
    if len(texts) == len(kernels) + len(against) + len(providers):
        refuse_other_marks([each.removeprefix("+") for each in texts], family=family, layout=layout)
    _refuse_elsewhere(options.get("executor"), [*kernels, *against])
    names = [each[1:] if each.startswith("+") else each for each in providers]
    joins = bool(names) and names != providers

    def specs(what: str, given: Sequence[Measurable]) -> tuple[str, ...] | None:
        if not given:
            return None
        texts = [each if isinstance(each, str) else _written(each, folder, family) for each in given]
        try:
            return parse_providers(",".join(texts), what, family=family, layout=layout)
        except UsageError as error:  # a file of ours means nothing to the caller
            said = str(error)
            for text in filter(lambda text: text.startswith(str(folder)), texts):
                said = said.replace(f"provider file {text.rpartition(':')[0]}: ", "")
            raise UsageError(said) from error

    replacing = [] if joins else names
    return Overrides(
        kernels=specs("kernel", kernels),
        providers=specs("against", against) if kernels else specs("provider", replacing),
        added=specs("provider", names) if joins else None,
    )


def _refuse_elsewhere(executor: str | None, measured: Sequence[Any]) -> None:
    """Raise UsageError for a function or class whose temporary file hosts of a cluster would not have."""
    own = [name_of(each) for each in measured if callable(each)]
    if own and executor in ("ray", "slurm"):
        raise UsageError(
            f"{own[0]} is in this process only, and executor {executor} measures on other hosts: put it into "
            f'a file of a folder that they share, and give "path/to/file.py:{own[0]}"'
        )


def _written(found: Any, folder: Path, family: Family | None) -> str:
    """Write a function or a provider class to a file of its own, and return how it is named there."""
    if isinstance(found, Provider):
        raise UsageError(f"{found.name} is an instance of a provider: give its class {type(found).__name__}")
    if not callable(found):
        raise UsageError(f"{found!r:.60} is no kernel; allowed: a function, a provider class, or a name")
    name = name_of(found)
    if family is None and not isinstance(found, type):
        raise UsageError(
            f"{name} is a plain function, which does not say what it computes: give family; families are "
            f"{', '.join(FAMILIES)}"
        )
    source = file_source(found)
    path = folder / f"{name}.py"
    if path.exists():
        raise UsageError(f"two functions are named {name}, by which rows tell them apart: rename one")
    path.write_text(source, encoding="utf-8")
    return f"{path}:{name}"
