"""``lbench profile``: where the time and the memory of a case go, and what that says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lightning_bench.case import DIRECTIONS, DTYPES, Direction, Dtype
from lightning_bench.cli.shared import options
from lightning_bench.errors import UsageError
from lightning_bench.words import counted

if TYPE_CHECKING:
    from lightning_bench.case import Device

_CASE = "Case"
_MOST_PROVIDERS = 2
# The papers' shape, as suite paper has it; on a CPU one that takes no seconds.
_DEFAULTS: dict[Device, tuple[int, int, int, int, Dtype]] = {
    "cuda": (4, 32, 8192, 128, "bf16"),
    "cpu": (1, 2, 512, 64, "fp32"),
}


def profile(
    providers: Annotated[
        list[str],
        typer.Argument(metavar="PROVIDER [PROVIDER]", help="Names from `lbench providers`, or file.py:NAME."),
    ],
    direction: Annotated[str, typer.Option(help="fwd, bwd or fwd_bwd.", rich_help_panel=_CASE)] = "fwd",
    dtype: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or bf16. Default: bf16, fp32 on a CPU.", rich_help_panel=_CASE),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Default: 4, 1 on a CPU.", rich_help_panel=_CASE)
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Default: 32, 2 on a CPU.", rich_help_panel=_CASE)
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=1, help="Default: 8192, 512 on a CPU.", rich_help_panel=_CASE)
    ] = None,
    head_dim: Annotated[
        int | None, typer.Option(min=1, help="Default: 128, 64 on a CPU.", rich_help_panel=_CASE)
    ] = None,
    value_dim: Annotated[
        int | None, typer.Option(min=1, help="Default: as head_dim.", rich_help_panel=_CASE)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cuda or cpu. Default: cuda where it works.", rich_help_panel=_CASE),
    ] = None,
    ncu: Annotated[
        bool,
        typer.Option("--ncu", help="Also under Nsight Compute: DRAM and L2 bytes, tensor cores, stalls."),
    ] = False,
    proton: Annotated[bool, typer.Option("--proton", help="Also under Triton's Proton.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a trace for Chrome or Perfetto: .json or .json.gz."),
    ] = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls that are profiled.")] = 5,
    warm: Annotated[
        bool, typer.Option("--warm", help="Use your Triton cache: the first call need not compile.")
    ] = False,
    time_limit: Annotated[
        float, typer.Option(min=0.1, help="Seconds that each profiler may take before it is killed.")
    ] = 300.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a JSON a case, calls.csv, kernels.csv and tensors.csv.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Take one case apart; two providers are put side by side."""
    from lightning_bench.cli.shared.device import resolve_device, threads_of
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import describe_machine
    from lightning_bench.machine.ceiling_store import kept_path, read_kept
    from lightning_bench.profile.data import Request
    from lightning_bench.profile.parent.run import Options, profile_case
    from lightning_bench.profile.profile_export import as_data, write
    from lightning_bench.profile.screen import show

    specs = _specs(providers)
    _refuse(direction, dtype, trace, specs)
    machine = describe_machine(resolve_device(device))
    usual = _DEFAULTS[machine.device]
    columns = head_dim or usual[3]
    requests = [
        Request(
            mode="profile",
            provider=spec,
            direction=cast(Direction, direction),
            dtype=cast(Dtype, dtype or usual[4]),
            batch=batch or usual[0],
            heads=heads or usual[1],
            seq_len=seq_len or usual[2],
            head_dim=columns,
            value_dim=value_dim or columns,
            device=machine.device,
            calls=calls,
            trace="" if trace is None else str(trace.absolute()),
        )
        for spec in specs
    ]
    sink = Sink(as_json=as_json)
    path = kept_path(machine)
    threads = threads_of(machine.device)
    kept = read_kept(path, machine.id, threads)
    if kept is None:
        how_many = f" on {counted(threads, 'thread')}" if threads else ""
        sink.say(
            f"no ceilings of this machine in {path}: two are measured{how_many}; "
            "`lbench ceilings` keeps them all"
        )
    how = Options(ncu=ncu, proton=proton, time_limit_s=time_limit, warm=warm)
    profiles = [profile_case(request, machine, kept, how, sink.say) for request in requests]
    if out is not None:
        for file in write(profiles, out):
            sink.say(f"wrote {file}")
    if trace is not None:
        sink.say(f"wrote {trace}: open it at ui.perfetto.dev or chrome://tracing")
    if as_json:
        sink.data([as_data(each) for each in profiles])
    else:
        sink.out.print(show(profiles))


def _specs(providers: list[str]) -> tuple[str, ...]:
    """Canonical specs. Raises UsageError for more than two, for one that is unknown or named twice."""
    from lightning_bench.suite import parse_providers

    specs = parse_providers(",".join(providers), "PROVIDER")
    if len(providers) > _MOST_PROVIDERS:
        raise UsageError(f"profile takes one provider, or two side by side, not {len(providers)}")
    if len(specs) < len(providers):
        raise UsageError(f"{providers[0]} is named twice: give two providers, or one")
    return specs


def _refuse(direction: str, dtype: str | None, trace: Path | None, specs: tuple[str, ...]) -> None:
    if direction not in DIRECTIONS:
        raise UsageError(f"--direction {direction!r} is not known; allowed: {', '.join(DIRECTIONS)}")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r} is not known; allowed: {', '.join(DTYPES)}")
    if trace is not None and not trace.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--trace {trace} ends with neither .json nor .json.gz")
    if trace is not None and len(specs) > 1:
        raise UsageError("--trace is of one provider: profile them one by one")
