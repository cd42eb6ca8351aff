"""What a profile holds: plain data that crosses a process boundary and is written to a file as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lightning_bench.case import Case, Device, Direction, Dtype, Family, Shape
from lightning_bench.families.work import Bound
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.variant import Variant

KernelKind = Literal["kernel", "memcpy", "memset", "op"]
Mode = Literal["profile", "ncu", "proton"]


class Data(BaseModel):
    """Base of all: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Varied(Data):
    """What a case changes about the usual inputs, as rows have it: see `lightning_bench.variant`."""

    kv_heads: int | None = None
    layer: str = ""
    rank: str = ""
    packing: str = ""

    @property
    def variant(self) -> Variant:
        """The same as one value."""
        return Variant.of_columns(self.kv_heads, self.layer, self.rank, self.packing)


class Request(Varied):
    """What a child process is asked to run."""

    mode: Mode
    provider: str
    direction: Direction
    dtype: Dtype
    batch: int
    heads: int
    seq_len: int
    head_dim: int
    value_dim: int
    device: Device
    calls: int = 5
    seed: int = 0
    trace: str = ""
    """The file for the trace for Chrome and Perfetto; "" for none."""
    ceilings: tuple[float, float, int] | None = None
    """Kept copy GB/s, TFLOP/s and L2 bytes; with None the two rates are measured in this run."""

    @property
    def shape(self) -> Shape:
        """The shape of the inputs."""
        return Shape(
            self.batch,
            self.heads,
            self.seq_len,
            self.head_dim,
            self.value_dim,
            self.dtype,
            self.device,
            self.variant,
        )

    @property
    def case(self) -> Case:
        """The case; its provider is the spec, not the name."""
        return Case(self.shape, self.provider, self.direction)


class Kernel(Data):
    """A kernel, copy or fill on the GPU in the order of the call; on a CPU all runs of an operator.

    Times are medians over the profiled calls. Fields that are not known are None.
    """

    name: str
    kind: KernelKind
    count: int = 1
    time_ms: float
    share: float
    """Share of the time of all listed kernels, 0 to 1."""
    grid: tuple[int, int, int] | None = None
    block: tuple[int, int, int] | None = None
    registers: int | None = None
    """Per thread."""
    shared_bytes: int | None = None
    """Per block, static and dynamic."""
    occupancy_percent: float | None = None
    """Warps on a multiprocessor over those that fit there, as registers, shared memory and grid allow."""
    spills: int | None = None
    """32-bit values per thread in local memory, as Triton reads them from the compiled kernel."""
    gbps: float | None = None
    """Achieved bandwidth: DRAM bytes over time by Nsight Compute, else by the model for a sole kernel."""
    counters: Counters | None = None

    @property
    def blocks(self) -> int | None:
        """Number of blocks of the grid."""
        return None if self.grid is None else self.grid[0] * self.grid[1] * self.grid[2]


class Counters(Data):
    """What Nsight Compute counted over a launch. A metric that it did not give is None."""

    kernel: str
    time_ms: float | None = None
    dram_read_bytes: float | None = None
    dram_write_bytes: float | None = None
    l2_bytes: float | None = None
    l2_hit_percent: float | None = None
    dram_percent: float | None = None
    """Of the peak bandwidth that the hardware has."""
    tensor_percent: float | None = None
    """Cycles in which the tensor pipe was active, of all in which the multiprocessors were."""
    occupancy_percent: float | None = None
    """Achieved: active warps over those that fit."""
    registers: int | None = None
    spill_instructions: float | None = None
    local_instructions: float | None = None
    """Loads and stores of local memory, for spills or indexed arrays."""
    waves: float | None = None
    """Number of blocks over the number that fit on the whole GPU at a time."""
    stalls: dict[str, float] = Field(default_factory=dict)
    """Why a warp did not issue: the share of its time by reason, 0 to 1, the largest first."""

    @property
    def dram_bytes(self) -> float | None:
        """DRAM bytes, read and written."""
        if self.dram_read_bytes is None or self.dram_write_bytes is None:
            return None
        return self.dram_read_bytes + self.dram_write_bytes


class Timing(Data):
    """Times of the call, without a profiler unless noted otherwise."""

    device_ms: float
    """Median device time with a cold L2, launches hidden; on a CPU the wall time."""
    call_ms: float
    """Median of what an eager caller waits, launch included."""
    samples: int
    kernels_ms: float | None = None
    """Sum of the listed kernels, under torch.profiler; None on a CPU."""
    between_ms: float | None = None
    """Gaps between kernels of a call, under torch.profiler; None on a CPU."""
    enqueue_ms: float | None = None
    """Time on the CPU until the call returned, under torch.profiler; None on a CPU."""
    first_call_s: float
    """Building the call and running it for the first time in the process."""
    second_call_s: float
    """The same a second time."""
    triton_cache: Literal["empty", "kept"] = "empty"
    """Whether Triton had compiled nothing before the first call, or the user's cache was kept."""
    compiled: tuple[CompiledKernel, ...] = ()
    """Triton kernels that were compiled in the first call, those that an autotuner tried included."""

    @property
    def compile_s(self) -> float:
        """Time that only a first call takes: compiling, loading and autotuning."""
        return max(0.0, self.first_call_s - self.second_call_s)

    @property
    def host_share(self) -> float | None:
        """Share of a call in which no kernel runs, 0 to 1."""
        if self.kernels_ms is None:
            return None
        return max(0.0, 1.0 - self.kernels_ms / self.call_ms)


class CompiledKernel(Data):
    """A Triton kernel as it was compiled or loaded; fields that Triton does not give are None."""

    name: str
    registers: int | None = None
    spills: int | None = None
    shared_bytes: int | None = None
    warps: int | None = None


class Allocation(Data):
    """A tensor that the call allocated."""

    size_bytes: int
    made_by: str
    """Outermost and innermost operator around the allocation, "" if it was outside of any."""
    freed: bool
    """Whether it was freed before the call ended."""


class Saved(Data):
    """A tensor that the forward pass saved for backward."""

    size_bytes: int
    shape: tuple[int, ...]
    dtype: str
    same_as: str
    """"q", "k", "v", "decay" or "o" if it shares their memory and adds none, else ""."""


class Memory(Data):
    """Figures of `lbench memory` in MiB, and the tensors behind them."""

    extra_mib: float | None
    ideal_mib: float
    saved_mib: float | None
    peak_mib: float | None
    reserved_mib: float | None
    allocations: tuple[Allocation, ...] = ()
    saved: tuple[Saved, ...] = ()


class Roofline(Data):
    """The call compared with the models and the ceilings; see docs/roofline.md."""

    model_flops: float
    model_bytes: float
    gbps: float
    tflops: float
    floor_ms: float
    floor_ratio: float
    bound_by: Bound
    ceiling_gbps: float
    ceiling_tflops: float
    ceilings_from: str
    impossible: str = ""
    """Why the time cannot be true, or ""."""

    @property
    def ceilings(self) -> Ceilings:
        """The two ceilings, without the size of the L2."""
        return Ceilings(self.ceiling_gbps, self.ceiling_tflops, 0)

    @property
    def bandwidth_share(self) -> float:
        """Model bytes over the time, as a share of the copy bandwidth."""
        return self.gbps / self.ceiling_gbps

    @property
    def rate_share(self) -> float:
        """Model FLOPs over the time, as a share of the matmul rate."""
        return self.tflops / self.ceiling_tflops


class ProtonKernel(Data):
    """A kernel as Triton's Proton saw it, summed over the profiled calls."""

    name: str
    time_ms: float
    count: int


class Reading(Data):
    """A sentence and the rule of docs/profile.md that made it."""

    rule: str
    text: str


class Profile(Varied):
    """Everything that is known of one case."""

    case_id: str
    provider: str
    label: str
    family: Family
    provider_version: str
    provider_config: str
    direction: Direction
    dtype: Dtype
    batch: int
    heads: int
    seq_len: int
    head_dim: int
    value_dim: int
    device: Device
    processors: int | None
    """Multiprocessors of the GPU; None on a CPU."""
    threads: int
    """Threads of torch on the CPU."""
    calls: int
    """Number of profiled calls."""
    timing: Timing
    kernels: tuple[Kernel, ...]
    counters: tuple[Counters, ...] = ()
    """Launches that Nsight Compute saw and that could not be matched with `kernels`."""
    proton: tuple[ProtonKernel, ...] = ()
    memory: Memory
    roofline: Roofline
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""
    readings: tuple[Reading, ...] = ()
    machine: dict[str, str | int | float | None] = Field(default_factory=dict)
    time_utc: str = ""

    @property
    def dram_bytes(self) -> float | None:
        """Bytes that Nsight Compute saw cross device memory in the call; None if any kernel lacks them."""
        counted = [kernel.counters for kernel in self.kernels if kernel.counters] or list(self.counters)
        sizes = [counters.dram_bytes for counters in counted]
        if not sizes or None in sizes:
            return None
        return sum(size for size in sizes if size is not None)

    @property
    def traffic_ratio(self) -> float | None:
        """`dram_bytes` over the model's bytes."""
        moved = self.dram_bytes
        return None if moved is None else moved / self.roofline.model_bytes


Kernel.model_rebuild()
Timing.model_rebuild()
Profile.model_rebuild()
