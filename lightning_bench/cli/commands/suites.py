"""`lbench suites`: the bundled suites; `lbench suites NAME`: the cases that it would run."""

from __future__ import annotations

from typing import Annotated

import typer

from lightning_bench.cli.shared.common_options import DeviceOption, Json
from lightning_bench.cli.shared.completion import suites as suite_names


def suites(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SUITE",
            help="A bundled suite, or a path ending in .toml.",
            autocompletion=suite_names,
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """List the bundled suites, or the cases of one."""
    from lightning_bench.cli.shared.device import parse_device, resolve_device
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.suite import bundled_suites, every_case, load_suite

    sink = Sink(as_json=as_json)
    chosen = resolve_device(None) if device is None else parse_device(device)[0]
    if name is None:
        loaded = [load_suite(bundled) for bundled in bundled_suites()]
        rows = [
            {
                "name": suite.name,
                "cases": len(every_case(suite, suite.device or chosen)),
                "title": suite.title,
                "description": suite.description,
            }
            for suite in loaded
        ]
        if as_json:
            sink.data(rows)
        else:
            sink.grid(
                ["suite", "cases", "what it is for"],
                [[str(r["name"]), str(r["cases"]), f"{r['title']}. {r['description']}"] for r in rows],
            )
        return
    suite = load_suite(name)
    cases = every_case(suite, suite.device or chosen)
    if as_json:
        sink.data(
            {
                "name": suite.name,
                "path": str(suite.path),
                "title": suite.title,
                "description": suite.description,
                "protocol": suite.protocol,
                "limits": suite.limits.model_dump(),
                "cases": [case.id for case in cases],
            }
        )
        return
    sink.say(f"{suite.name}: {suite.title}. {suite.description}")
    sink.say(f"{suite.path}, protocol {suite.protocol}, {len(cases)} cases:")
    for case in cases:
        sink.line(case.id)
