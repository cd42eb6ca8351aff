"""Record: one row of a result file, each column with its meaning and unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

from lightning_bench.case import Device, Direction, Dtype, Metric, ProtocolName, Shape
from lightning_bench.model_run import MODEL_RUN, ModelRun
from lightning_bench.record.codec import Schema
from lightning_bench.record.row_values import (
    one_line,
    tidy_compiled,
    tidy_count,
    tidy_figure,
    tidy_layer,
    tidy_packing,
    tidy_parallel,
    tidy_rank,
    tidy_recomputed,
    tidy_size,
    tidy_time,
    tidy_unstated_size,
)
from lightning_bench.variant import PLAIN, Variant

Status = Literal["ok", "unavailable", "unsupported", "oom", "timeout", "crashed", "wrong", "unstable"]

STATUSES: tuple[Status, ...] = get_args(Status)
WORKED: frozenset[Status] = frozenset({"ok", "unstable"})
"""Statuses of rows that have a usable figure."""
FAILED: frozenset[Status] = frozenset({"crashed", "timeout", "wrong"})

KEY = ("metric", "protocol", "case_id", "provider_version", "machine_id")
"""Columns that identify a finished case: a sweep that resumes and the samples of a row go by them."""

VARIANT = tuple(PLAIN.columns)
"""Columns that say what a case changes about the usual inputs; a blank is the default."""

AUTOTUNED = "autotuned: "
"""Stands in `provider_config` before what an autotuner chose in this process."""
TUNED_BEFORE = "autotuned before: "
"""Stands there if it was chosen before: Triton can keep a choice on disk, a library can bring one along."""

FOREIGN_LIMIT_PERCENT = 5.0
"""Others may use this share of the processors, %, and no row of a CPU is called unstable for it."""
STEAL_LIMIT_PERCENT = 5.0
"""The same of the share that the host of a virtual machine withholds."""

Figure = float | None
CaseKey = tuple[str, str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One case as it ended: a row of the CSV, each field with its meaning and unit.

    A record equals what its row reads back as: it holds floats to twelve digits, a float that is not
    finite and a time that is not above 0 as None, and text as one line.
    """

    suite: Annotated[str, "name of the suite that asked for the case"] = ""
    metric: Annotated[Metric, "what was measured: speed, memory, check, train, generate or energy"]
    protocol: Annotated[ProtocolName, "how it was measured: lbench or paper"]
    status: Annotated[Status, "how it ended: ok, or what kept it from that; see Status"]
    reason: Annotated[str, "why the status is not ok, in one line"] = ""
    case_id: Annotated[str, "provider/direction/shape"]
    provider: Annotated[str, "name of the implementation"]
    label: Annotated[str, "its name in tables and plots"] = ""
    family: Annotated[str, "what it computes: linear_decay, softmax, gla and so on; see docs/systems.md"]
    layout: Annotated[str, "layout of its inputs: bhnd or bnhd"] = ""
    provider_version: Annotated[str, "package and version that it wraps"] = ""
    provider_config: Annotated[
        str,
        "kernel configuration that it chose; `autotuned:` if by timing several in this process, "
        "`autotuned before:` if in an earlier one",
    ] = ""
    direction: Annotated[Direction, "fwd, bwd or fwd_bwd"]
    dtype: Annotated[Dtype, "dtype of inputs and output: fp32, fp16 or bf16"]
    batch: Annotated[int, "batch size"]
    heads: Annotated[int, "number of heads"]
    seq_len: Annotated[int, "sequence length, tokens"]
    head_dim: Annotated[int, "columns of q and k"]
    value_dim: Annotated[int, "columns of v and of the output"]
    device: Annotated[Device, "cuda or cpu"]
    kv_heads: Annotated[int | None, "heads of k and v; blank for as many as heads"] = None
    layer: Annotated[str, "layer of a model whose slopes the heads have, as 40 of 80, from 0; or blank"] = ""
    rank: Annotated[
        str, "rank of a tensor-parallel group whose heads these are, as 7 of 8, from 0; or blank"
    ] = ""
    packing: Annotated[
        str, "lengths of the documents that are packed into seq_len, as 96k+31x1k; or blank"
    ] = ""
    model: Annotated[
        str, "model around the attention, trained or generating; blank for attention by itself"
    ] = ""
    step_tokens: Annotated[
        int | None, "most tokens of a training step: a batch is as many sequences as they hold, at least one"
    ] = None
    compile: Annotated[
        str, "what torch.compile compiles of the model: parts, which is all but the attention; or blank"
    ] = ""
    recompute: Annotated[
        str, "what the backward pass computes again: layers, by activation checkpointing; or blank"
    ] = ""
    new_tokens: Annotated[
        int | None, "tokens by which each prompt of seq_len tokens is continued; blank for training"
    ] = None
    parallel: Annotated[
        str, "how ranks share a training step: ddp, or fsdp2, which shards the weights; blank for one device"
    ] = ""
    ranks: Annotated[
        int | None,
        "processes of one host that share a case, one device each: a part of every sequence each, or of a "
        "training step batch · seq_len tokens each; blank for one",
    ] = None
    median_ms: Annotated[
        Figure, "median time, ms; of metric train that of a step, of generate that of all new tokens"
    ] = None
    p20_ms: Annotated[Figure, "20th percentile of the time, ms"] = None
    p80_ms: Annotated[Figure, "80th percentile of the time, ms"] = None
    min_ms: Annotated[Figure, "shortest time, ms"] = None
    mean_ms: Annotated[Figure, "mean time, ms"] = None
    ci_low_ms: Annotated[
        Figure,
        "lower end of the 95 % interval of the median, ms: over the samples of one process; of several, "
        "where the figure of as many others lies",
    ] = None
    ci_high_ms: Annotated[Figure, "upper end of that interval, ms"] = None
    processes: Annotated[int | None, "number of processes that measured the case, one after the other"] = None
    between_percent: Annotated[
        Figure, "standard deviation of their medians, in per cent; blank for one process"
    ] = None
    median_cycles: Annotated[Figure, "median of a sample's time times its SM clock, cycles"] = None
    samples: Annotated[int | None, "number of timed samples, of all processes"] = None
    throttled_samples: Annotated[
        int | None, "number of samples during which the SM clock was too low, most of them dropped"
    ] = None
    empty_us: Annotated[
        Figure, "median sample of no work, two CUDA events, which is in every sample and not subtracted, µs"
    ] = None
    call_ms: Annotated[Figure, "median time that an eager caller waits, launch included, ms"] = None
    graph_ms: Annotated[Figure, "median time of a CUDA-graph replay, ms"] = None
    tflops: Annotated[Figure, "model operations over the median time, TFLOP/s (10^12)"] = None
    gbps: Annotated[Figure, "model traffic over the median time, or decode_ms, GB/s (10^9)"] = None
    model_flops: Annotated[Figure, "operations that the task needs, whoever does it"] = None
    model_bytes: Annotated[
        Figure, "bytes that must cross device memory, whoever moves them; of generate in a decoding step"
    ] = None
    floor_ms: Annotated[Figure, "the longer of what bytes and FLOPs take at the two ceilings, ms"] = None
    floor_ratio: Annotated[Figure, "median_ms over floor_ms"] = None
    ceiling_gbps: Annotated[Figure, "memory bandwidth measured in the same run, GB/s (10^9)"] = None
    ceiling_of: Annotated[
        str,
        "what has that bandwidth: a stream with the task's arrays read and written, as 3:1, or a copy; "
        "blank for the copy of older versions",
    ] = ""
    ceiling_tflops: Annotated[
        Figure, "matrix rate in this dtype measured in the same run, TFLOP/s (10^12)"
    ] = None
    tokens_per_s: Annotated[
        Figure,
        "tokens per second and GPU: of metric train batch · seq_len, of generate batch · new_tokens, over "
        "median_ms",
    ] = None
    mfu_percent: Annotated[
        Figure, "tflops over the GPU's dense matrix rate by its data sheet, %: model FLOPs utilization"
    ] = None
    forward_ms: Annotated[Figure, "median time of a step's forward pass and loss, ms"] = None
    backward_ms: Annotated[Figure, "median time of a step's backward pass, ms"] = None
    optimizer_ms: Annotated[Figure, "median time of a step's optimizer, ms"] = None
    prefill_ms: Annotated[
        Figure, "median time in which the prompts are read and the first new tokens chosen, ms"
    ] = None
    decode_ms: Annotated[
        Figure, "time of a decoding step: that of all, a median, over their number new_tokens - 1, ms"
    ] = None
    compile_s: Annotated[
        Figure, "what the first step took longer than a median step, s: compiling, caches as they were"
    ] = None
    energy_per_token_j: Annotated[
        Figure, "energy of the whole board over the timed steps, over their tokens, J; blank without NVML"
    ] = None
    call_mj: Annotated[
        Figure,
        "of metric energy: energy of a call beyond that of the device at rest, mJ, median over windows",
    ] = None
    token_mj: Annotated[Figure, "the same over batch · seq_len, mJ"] = None
    rest_w: Annotated[Figure, "power of the device at rest before the windows, W, which is subtracted"] = None
    energy_spread_percent: Annotated[
        Figure, "largest less smallest call_mj of the windows, in per cent of the median"
    ] = None
    first_loss: Annotated[Figure, "loss of the first step, nats per token"] = None
    loss: Annotated[Figure, "mean loss of the last timed steps, nats per token"] = None
    parameters: Annotated[int | None, "parameters of the model, embeddings included"] = None
    cache_mib: Annotated[
        Figure, "what all layers keep of the sequences, states or keys and values, MiB (2^20)"
    ] = None
    extra_mib: Annotated[Figure, "peak memory that the call adds to inputs already there, MiB (2^20)"] = None
    peak_mib: Annotated[Figure, "absolute peak of allocated memory, MiB (2^20)"] = None
    saved_mib: Annotated[Figure, "memory held between forward and backward, MiB (2^20)"] = None
    reserved_mib: Annotated[Figure, "peak of memory that the allocator reserved, MiB (2^20)"] = None
    ideal_mib: Annotated[Figure, "memory of the call's outputs alone, MiB (2^20)"] = None
    extra_ratio: Annotated[Figure, "extra_mib over ideal_mib"] = None
    error_o: Annotated[
        Figure,
        "relative L2 error of the output against the fp64 oracle; of metrics train and generate of a small "
        "model's logits",
    ] = None
    error_dq: Annotated[Figure, "relative L2 error of the gradient of q"] = None
    error_dk: Annotated[Figure, "relative L2 error of the gradient of k"] = None
    error_dv: Annotated[Figure, "relative L2 error of the gradient of v"] = None
    error_dgate: Annotated[
        Figure, "worst relative L2 error of the gradients of gates, weights and other inputs"
    ] = None
    error_state: Annotated[Figure, "relative L2 error of the states that a call leaves in its pool"] = None
    error_budget: Annotated[Figure, "largest relative L2 error that passes the gate"] = None
    checks: Annotated[str, "what was judged beside the errors: see docs/trust.md"] = ""
    seed: Annotated[int | None, "seed of the inputs and of the choice of what is judged"] = None
    sm_clock_mhz: Annotated[
        Figure, "median SM clock, MHz: during the samples, or beside them if there are no median_cycles"
    ] = None
    power_w: Annotated[
        Figure,
        "median board power beside the samples, W: of all cases that take turns, not of this one; of metric "
        "energy the mean of its windows, rest included",
    ] = None
    temperature_c: Annotated[Figure, "highest GPU temperature beside the samples, degrees Celsius"] = None
    throttle: Annotated[str, "reasons why the GPU slowed its clocks, if any"] = ""
    cpu_threads: Annotated[int | None, "threads of torch while the case ran, if it ran on a CPU"] = None
    foreign_cpu_percent: Annotated[
        Figure, "share of the processors that other processes used beside the samples, %"
    ] = None
    cpu_steal_percent: Annotated[
        Figure, "share of the processors that the host of a virtual machine withheld, %"
    ] = None
    cpu_wait_percent: Annotated[
        Figure, "time that the worker's threads waited for a processor, % of the samples' time"
    ] = None
    cpu_pressure_percent: Annotated[
        Figure, "time in which some task waited for a processor (PSI), % of the samples' time"
    ] = None
    run_queue: Annotated[Figure, "median number of threads that ran or waited beside the samples"] = None
    gpu_neighbours: Annotated[str, "other processes on the GPU beside the samples, if any"] = ""
    device_name: Annotated[str, "the GPU's product name, or the CPU's model"] = ""
    capability: Annotated[str, "CUDA compute capability"] = ""
    driver: Annotated[str, "version of the NVIDIA driver"] = ""
    cuda: Annotated[str, "CUDA version that torch was built for"] = ""
    torch: Annotated[str, "version of torch"] = ""
    triton: Annotated[str, "version of triton"] = ""
    python: Annotated[str, "version of Python"] = ""
    harness_version: Annotated[str, "version of lightning-bench"] = ""
    harness_commit: Annotated[str, "its commit, followed by -dirty if the code differed"] = ""
    host: Annotated[str, "identity of the host: a digest, or its name with LBENCH_IDENTITY=plain"] = ""
    gpu_uuid: Annotated[str, "identity of the GPU or MIG slice: a digest, or its UUID in plain"] = ""
    power_limit_w: Annotated[Figure, "power limit that the GPU enforces, W"] = None
    sm_clock_limit_mhz: Annotated[Figure, "highest SM clock that the GPU may take, MHz"] = None
    memory_clock_limit_mhz: Annotated[Figure, "highest memory clock that the GPU may take, MHz"] = None
    mig: Annotated[str, "profile of the MIG slice, off for a whole GPU"] = ""
    ecc: Annotated[str, "whether the GPU's memory corrects errors: on or off"] = ""
    executor: Annotated[
        str,
        "who gave out the slots of a sweep on several, and how many: local 2, ray 8; blank for one device",
    ] = ""
    machine_id: Annotated[str, "fingerprint of device, driver, CUDA, torch, triton and python"] = ""
    run_utc: Annotated[str, "when the run began that measured the case, UTC, ISO 8601"] = ""
    time_utc: Annotated[str, "when the case ended, UTC, ISO 8601"] = ""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if (tidy := _TIDY[name](value)) is not value:
                object.__setattr__(self, name, tidy)

    def changed(self, changes: Mapping[str, object]) -> Record:
        """Return the record with other values in these columns; only they are tidied."""
        row = object.__new__(Record)
        vars(row).update(vars(self))
        vars(row).update((name, _TIDY[name](value)) for name, value in changes.items())
        return row

    @property
    def key(self) -> CaseKey:
        """The values of `KEY`: what a sweep that resumes recognises a finished case by."""
        return self.metric, self.protocol, self.case_id, self.provider_version, self.machine_id

    @property
    def autotuned(self) -> bool:
        """Whether kernels chose their configuration by timing themselves, in this process or before."""
        return AUTOTUNED in self.provider_config or TUNED_BEFORE in self.provider_config

    @property
    def worked(self) -> bool:
        """Whether the row has a usable figure: its status is ok or unstable."""
        return self.status in WORKED

    @property
    def beside_load(self) -> bool:
        """Whether others took so much of the processors that the times of a CPU are not the kernel's own."""
        foreign, steal = self.foreign_cpu_percent or 0.0, self.cpu_steal_percent or 0.0
        much = foreign > FOREIGN_LIMIT_PERCENT or steal > STEAL_LIMIT_PERCENT
        return self.device == "cpu" and self.status == "unstable" and much

    @property
    def shape(self) -> Shape:
        """The shape, dtype and device of the inputs."""
        variant = Variant.of_columns(**{name: getattr(self, name) for name in VARIANT})
        return Shape(
            self.batch,
            self.heads,
            self.seq_len,
            self.head_dim,
            self.value_dim,
            self.dtype,
            self.device,
            variant,
            ModelRun.of_columns(**{name: getattr(self, name) for name in MODEL_RUN}),
            self.ranks or 0,
        )


@dataclass(frozen=True)
class Row:
    """A record and the path of the CSV that it was read from, as a user would type it."""

    record: Record
    source: str


def log_deviation(low: float, high: float) -> float:
    """Return the standard deviation of the log of a figure that its 95 % interval means, as if normal."""
    return math.log(high / low) / _WIDTH_95


def _meanings() -> dict[str, str]:
    hints = get_type_hints(Record, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(Record)}


COLUMNS: dict[str, str] = _meanings()
"""Every column in the order of the file, with its meaning and unit. A figure that was not taken is blank."""


def _tidy_by_column() -> dict[str, Callable[[Any], Any]]:
    by_type = {Figure: tidy_figure, int: tidy_size, int | None: tidy_count}
    tidy = {name: by_type.get(hint, one_line) for name, hint in get_type_hints(Record).items()}
    tidy |= dict.fromkeys(("heads", "head_dim", "value_dim"), tidy_unstated_size)
    tidy |= {"layer": tidy_layer, "rank": tidy_rank, "packing": tidy_packing}
    tidy |= {"compile": tidy_compiled, "recompute": tidy_recomputed, "parallel": tidy_parallel}
    return tidy | {name: tidy_time for name in tidy if name.endswith("_ms")}


def _tidy_cell(name: str) -> Callable[[Any], Any]:
    """Return what tidies a cell of a file, where a finite figure that no row holds is an error."""
    tidy = _TIDY[name]
    if tidy not in (tidy_figure, tidy_time):
        return tidy

    def checked(value: float) -> float | None:
        figure: float | None = tidy(value)
        if figure is None and math.isfinite(value):
            raise ValueError(f"{value!r} is no {'time' if tidy is tidy_time else 'figure'}")
        return figure

    return checked


_WIDTH_95 = 2 * 1.959964  # of a normal distribution, in standard deviations
_TIDY = _tidy_by_column()
SCHEMA = Schema(Record, digits=12, tidy=_tidy_cell)
"""Records as lines of a result file."""
