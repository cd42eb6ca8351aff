"""`lbench profile`: where the time and the memory of a case go, and what that means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.case import DIRECTIONS, DTYPES, Dtype
from lightning_bench.cli.shared.common_options import DEVICE_HELP, Json, known
from lightning_bench.cli.shared.completion import devices, one_of, provider_names
from lightning_bench.cli.shared.option_groups import grouped
from lightning_bench.errors import UsageError
from lightning_bench.variant import Variant
from lightning_bench.words import counted

if TYPE_CHECKING:
    from lightning_bench.case import Device

_CASE_PANEL = "Case"
_MOST_PROVIDERS = 2


@dataclass(frozen=True)
class CaseOptions:
    """One value per axis, None for the device's default."""

    direction: Annotated[
        str,
        typer.Option(
            metavar="DIRECTION",
            autocompletion=one_of(DIRECTIONS),
            help="fwd, bwd or fwd_bwd.",
            rich_help_panel=_CASE_PANEL,
        ),
    ] = "fwd"
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            autocompletion=one_of(DTYPES),
            help="fp32, fp16 or bf16. Default: bf16, fp32 on a CPU.",
            rich_help_panel=_CASE_PANEL,
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Default: 4, 1 on a CPU.", rich_help_panel=_CASE_PANEL),
    ] = None
    heads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Default: 32, 2 on a CPU.", rich_help_panel=_CASE_PANEL),
    ] = None
    seq_len: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Default: 8192, 512 on a CPU.", rich_help_panel=_CASE_PANEL),
    ] = None
    head_dim: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Default: 128, 64 on a CPU.", rich_help_panel=_CASE_PANEL),
    ] = None
    value_dim: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Default: as head_dim.", rich_help_panel=_CASE_PANEL),
    ] = None
    kv_heads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Default: as heads.", rich_help_panel=_CASE_PANEL),
    ] = None
    layer: Annotated[
        str,
        typer.Option(
            metavar="PART", help="Layer whose slopes are taken: '79 of 80'.", rich_help_panel=_CASE_PANEL
        ),
    ] = ""
    rank: Annotated[
        str,
        typer.Option(
            metavar="PART", help="Rank whose heads are taken: '7 of 8'.", rich_help_panel=_CASE_PANEL
        ),
    ] = ""
    packing: Annotated[
        str,
        typer.Option(
            metavar="LENGTHS",
            help="Documents, in place of --seq-len: '96k + 31 x 1k'.",
            rich_help_panel=_CASE_PANEL,
        ),
    ] = ""

    @property
    def variant(self) -> Variant:
        """What differs from the usual inputs. UsageError for a text that says nothing."""
        from lightning_bench.suite import Overrides, checked_overrides

        if self.packing and self.seq_len:
            raise UsageError("--seq-len and --packing do not go together: the documents say how long it is")
        names = ("layer", "rank", "packing")
        given = Overrides(**{name: (text,) for name in names if (text := getattr(self, name))})
        read = checked_overrides(given)
        layer, rank, packing = (getattr(read, name) or ("",) for name in names)
        return Variant.of_columns(self.kv_heads, layer[0], rank[0], packing[0])

    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help=DEVICE_HELP,
            autocompletion=one_of(devices),
            rich_help_panel=_CASE_PANEL,
        ),
    ] = None


@dataclass(frozen=True)
class _DefaultCase:
    batch: int
    heads: int
    seq_len: int
    head_dim: int
    dtype: Dtype


# The papers' shape, as suite paper has it; on a CPU a shape that takes less than a second.
_DEFAULTS: dict[Device, _DefaultCase] = {
    "cuda": _DefaultCase(4, 32, 8192, 128, "bf16"),
    "cpu": _DefaultCase(1, 2, 512, 64, "fp32"),
}


@grouped
def profile(
    *,
    providers: Annotated[
        list[str],
        typer.Argument(
            metavar="PROVIDER [PROVIDER]",
            autocompletion=one_of(provider_names),
            help="Names from `lbench providers`, file.py:NAME or hub:...",
        ),
    ],
    case: CaseOptions,
    ncu: Annotated[
        bool,
        typer.Option("--ncu", help="Also under Nsight Compute: DRAM and L2 bytes, tensor cores, stalls."),
    ] = False,
    proton: Annotated[bool, typer.Option("--proton", help="Also under Triton's Proton.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a trace for Chrome or Perfetto: .json or .json.gz."),
    ] = None,
    calls: Annotated[int, typer.Option(metavar="N", min=1, help="Calls that are profiled.")] = 5,
    warm: Annotated[
        bool, typer.Option("--warm", help="Use your Triton cache: the first call need not compile.")
    ] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Seconds that each profiler may take before it is killed."
        ),
    ] = 300.0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for one JSON file per case, calls.csv, kernels.csv and tensors.csv."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where the time and the memory of one case go; two providers are shown side by side."""
    from lightning_bench.cli.shared.device import resolve_device, threads_of
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine import describe_machine
    from lightning_bench.machine.ceilings import kept_path, read_kept
    from lightning_bench.profile.data import Request
    from lightning_bench.profile.parent.profilers import Options, profile_case
    from lightning_bench.profile.profile_export import as_data, write
    from lightning_bench.profile.screen import show
    from lightning_bench.record.lock import refuse_file, refuse_folder

    specs = _specs(providers)
    direction = known("--direction", case.direction, DIRECTIONS)
    dtype = None if case.dtype is None else known("--dtype", case.dtype, DTYPES)
    _check_trace(trace, specs)
    machine = describe_machine(resolve_device(case.device))
    if trace is not None:
        refuse_file(trace)
    if out is not None:
        refuse_folder(out)
    default = _DEFAULTS[machine.device]
    head_dim = case.head_dim or default.head_dim
    variant = case.variant
    batch, heads = case.batch or (1 if variant.documents else default.batch), case.heads or default.heads
    if variant.documents and batch > 1:
        raise UsageError(f"--batch {batch} with --packing; allowed: 1, which has all documents")
    if variant.kv_heads and heads % variant.kv_heads:
        raise UsageError(f"--kv-heads {variant.kv_heads} does not divide {heads} heads")
    if variant.kv_heads == heads:
        variant = replace(variant, kv_heads=0)
    requests = [
        Request(
            mode="profile",
            provider=spec,
            direction=direction,
            dtype=dtype or default.dtype,
            batch=batch,
            heads=heads,
            seq_len=sum(variant.documents) or case.seq_len or default.seq_len,
            head_dim=head_dim,
            value_dim=case.value_dim or head_dim,
            device=machine.device,
            **variant.columns,
            calls=calls,
            trace="" if trace is None else str(trace.absolute()),
        )
        for spec in specs
    ]
    sink = Sink(as_json=as_json)
    path, threads = kept_path(machine), threads_of(machine.device)
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
        sink.screen(show(profiles))


def _specs(providers: list[str]) -> tuple[str, ...]:
    """Return canonical specs; UsageError for more than two, for an unknown one and for one named twice."""
    from lightning_bench.suite import parse_providers

    specs = parse_providers(",".join(providers), "PROVIDER")
    if len(providers) > _MOST_PROVIDERS:
        raise UsageError(f"profile takes one provider, or two side by side, not {len(providers)}")
    if len(specs) < len(providers):
        raise UsageError(f"{providers[0]} is named twice: give two providers, or one")
    return specs


def _check_trace(trace: Path | None, specs: tuple[str, ...]) -> None:
    if trace is not None and not trace.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--trace {trace} ends with neither .json nor .json.gz")
    if trace is not None and len(specs) > 1:
        raise UsageError("--trace is of one provider: profile them one by one")
