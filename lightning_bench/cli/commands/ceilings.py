"""`lbench ceilings`: what this device reaches at its best, measured once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.common_options import DeviceOption, Json
from lightning_bench.words import counted

if TYPE_CHECKING:
    from lightning_bench.case import Device
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import Machine
    from lightning_bench.machine.ceilings import DeviceCeilings


def ceilings(
    device: DeviceOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again; earlier rows stay.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV to keep them in. Default: results/DEVICE/ceilings.csv."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure bandwidths, matmul rates and the cost of a launch, unless they are kept for this machine.

    What contradicts itself, or was disturbed by others, is measured again, and not kept if that stays.
    """
    from dataclasses import asdict

    from lightning_bench.cli.shared.busy import warn_if_busy
    from lightning_bench.cli.shared.device import resolve_device, threads_of
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import describe_machine
    from lightning_bench.machine.ceilings import MEANINGS, as_row, keep, kept_path, read_kept

    machine = describe_machine(resolve_device(device))
    path = out or kept_path(machine)
    sink = Sink(as_json=as_json)
    kept = read_kept(path, machine.id, threads_of(machine.device))
    if kept is None or fresh:
        sink.say(f"measuring {machine.device_name}; nothing else should run on it")
        warn_if_busy(sink, machine.device)
        kept = keep(path, _measured(machine.device, sink), machine)
        sink.say(f"kept in {path}")
    else:
        sink.say(f"kept in {path} since {kept.time_utc}; --fresh measures again")
    if as_json:
        sink.data(
            {
                **asdict(kept.ceilings),
                "machine": asdict(machine),
                "machine_id": kept.machine_id,
                "time_utc": kept.time_utc,
                "kept": str(path),
            }
        )
        return
    cells = as_row(kept.ceilings)
    sink.grid(
        ["ceiling", "value", "what it is"],
        [[name, cells[name], meaning] for name, meaning in MEANINGS.items() if cells[name]],
        title=_title(machine, kept.ceilings),
    )


def _measured(device: Device, sink: Sink) -> DeviceCeilings:
    from lightning_bench.measure.quiet_ceilings import quiet_ceilings

    return quiet_ceilings(device, sink.say)


def _title(machine: Machine, ceilings: DeviceCeilings) -> str:
    where = f"{machine.device_name}, torch {machine.torch}"
    return where if machine.device == "cuda" else f"{where}, {counted(ceilings.threads, 'thread')}"
