"""`lbench env`: the machine as every row records it."""

from __future__ import annotations

from lightning_bench.cli.shared.common_options import DeviceOption, Json


def env(device: DeviceOption = None, as_json: Json = False) -> None:
    """Print the machine's fields, its fingerprint and the folder for its results."""
    from dataclasses import asdict

    from lightning_bench.cli.shared.device import resolve_device
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import describe_machine

    machine = describe_machine(resolve_device(device))
    fields = {**asdict(machine), "machine_id": machine.id, "results": f"results/{machine.slug}/"}
    sink = Sink(as_json=as_json)
    if as_json:
        sink.data(fields)
    else:
        sink.grid(
            ["field", "value"],
            [[name, "" if value is None else str(value)] for name, value in fields.items()],
        )
