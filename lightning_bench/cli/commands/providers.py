"""`lbench providers`: what can be measured, the library behind it, and why it cannot run here."""

from __future__ import annotations

from typing import Annotated

import typer

from lightning_bench.case import FAMILIES
from lightning_bench.cli.shared.common_options import DeviceOption, Json, known
from lightning_bench.cli.shared.completion import one_of


def providers(
    device: DeviceOption = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="FAMILY", help="Only this family.", autocompletion=one_of(FAMILIES)),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only those that can run here.")] = False,
    load: Annotated[
        bool, typer.Option(help="Also import each library that is installed, to see whether it loads.")
    ] = True,
    as_json: Json = False,
) -> None:
    """List every provider, the built-in ones and those of installed plug-ins."""
    from dataclasses import asdict

    from lightning_bench.cli.shared.device import resolve_device
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import describe_machine
    from lightning_bench.providers import describe

    machine = describe_machine(resolve_device(device))  # an unavailable device is an error
    wanted = None if family is None else known("--family", family, FAMILIES)
    infos = [info for info in describe(machine.device, load, wanted) if not (here and info.reason)]
    sink = Sink(as_json=as_json)
    if as_json:
        sink.data([asdict(info) for info in infos])
        return
    sink.grid(
        ["provider", "family", "takes", "library", "here"],
        [
            [
                info.name,
                info.family,
                info.axes,
                f"{info.package} {info.version}".strip(),
                info.reason or "yes",
            ]
            for info in infos
        ],
        wrapped=3,
    )
