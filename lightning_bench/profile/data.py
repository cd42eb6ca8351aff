"""What a profile holds. Plain data, which crosses a process boundary and goes to a file as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lightning_bench.case import Case, Device, Direction, Dtype, Family, Shape
from lightning_bench.families.work import Bound
from lightning_bench.machine.ceilings import Ceilings

KernelKind = Literal["kernel", "memcpy", "memset", "op"]
Mode = Literal["profile", "ncu", "proton"]


class Data(BaseModel):
    """Frozen; a field that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(Data):
    """What a process of its own is asked to run."""

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
    """Where the trace for Chrome and Perfetto goes; "" for none."""
    ceilings: tuple[float, float, int] | None = None
    """Kept copy GB/s, TFLOP/s and L2 bytes; None has the two measured in this run."""

    @property
    def shape(self) -> Shape:
        """The shape of the inputs."""
        return Shape(
            self.batch, self.heads, self.seq_len, self.head_dim, self.value_dim, self.dtype, self.device
        )

    @property
    def case(self) -> Case:
        """The case, by the provider's spec."""
        return Case(self.shape, self.provider, self.direction)


class Kernel(Data):
    """A kernel, copy or fill on the GPU in the order of the call; on a CPU all runs of one operator.

    Times are medians over the profiled calls. What is not known is None.
    """

    name: str
    kind: KernelKind
    count: int = 1
    time_ms: float
    share: float
    """Of the time of all that is listed, 0 to 1."""
    grid: tuple[int, int, int] | None = None
    block: tuple[int, int, int] | None = None
    registers: int | None = None
    """Per thread."""
    shared_bytes: int | None = None
    """Per block, static and dynamic."""
    occupancy_percent: float | None = None
    """Warps on a multiprocessor over those that fit there, as registers, shared memory and grid allow."""
    spills: int | None = None
    """32-bit values per thread in local memory, as Triton reads it off the compiled kernel."""
    gbps: float | None = None
    """Achieved bandwidth: DRAM bytes of Nsight Compute over its time, else the model's for a sole kernel."""
    counters: Counters | None = None

    @property
    def blocks(self) -> int | None:
        """Blocks of the grid."""
        return None if self.grid is None else self.grid[0] * self.grid[1] * self.grid[2]


class Counters(Data):
    """What Nsight Compute counted over one launch. A metric that it did not give is None."""

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
    """Loads and stores of local memory, for spills or arrays that are indexed."""
    waves: float | None = None
    """Blocks over those that fit on the whole GPU at a time."""
    stalls: dict[str, float] = Field(default_factory=dict)
    """Why a warp did not issue: the share of its time by reason, 0 to 1, the largest first."""

    @property
    def dram_bytes(self) -> float | None:
        """Read and written."""
        if self.dram_read_bytes is None or self.dram_write_bytes is None:
            return None
        return self.dram_read_bytes + self.dram_write_bytes


class Timing(Data):
    """Times of the call: without a profiler, unless said otherwise."""

    device_ms: float
    """Median device time with a cold L2, launches hidden; on a CPU the wall time."""
    call_ms: float
    """Median of what an eager caller waits, launch included."""
    samples: int
    kernels_ms: float | None = None
    """Sum of what is listed as kernels, under torch.profiler; None on a CPU."""
    between_ms: float | None = None
    """Gaps between kernels of a call, under torch.profiler; None on a CPU."""
    enqueue_ms: float | None = None
    """Time on the CPU until the call returned, under torch.profiler; None on a CPU."""
    first_call_s: float
    """Building the call and running it for the first time in the process."""
    second_call_s: float
    """The same again."""
    triton_cache: Literal["empty", "kept"] = "empty"
    """Whether Triton had compiled nothing before the first call, or the user's cache was kept."""
    compiled: tuple[CompiledKernel, ...] = ()
    """Triton kernels that were compiled in the first call, those that an autotuner tried included."""

    @property
    def compile_s(self) -> float:
        """What only a first call takes: compiling, loading and autotuning."""
        return max(0.0, self.first_call_s - self.second_call_s)

    @property
    def host_share(self) -> float | None:
        """Share of a call in which no kernel runs, 0 to 1."""
        if self.kernels_ms is None:
            return None
        return max(0.0, 1.0 - self.kernels_ms / self.call_ms)


class CompiledKernel(Data):
    """A Triton kernel as it was compiled or loaded; what Triton does not tell is None."""

    name: str
    registers: int | None = None
    spills: int | None = None
    shared_bytes: int | None = None
    warps: int | None = None


class Allocation(Data):
    """A tensor that the call allocated."""

    size_bytes: int
    made_by: str
    """Outermost and innermost operator around it, "" where it was made outside of any."""
    freed: bool
    """Whether it was gone when the call had ended."""


class Saved(Data):
    """A tensor that the forward pass saved for backward."""

    size_bytes: int
    shape: tuple[int, ...]
    dtype: str
    same_as: str
    """"q", "k", "v", "decay" or "o" where it shares their memory and costs none of its own, else ""."""


class Memory(Data):
    """MiB as `lbench memory` has them, and where they come from."""

    extra_mib: float | None
    ideal_mib: float
    saved_mib: float | None
    peak_mib: float | None
    reserved_mib: float | None
    allocations: tuple[Allocation, ...] = ()
    saved: tuple[Saved, ...] = ()


class Roofline(Data):
    """The call against the models and the ceilings; docs/roofline.md."""

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
        """The pair (the L2 left out)."""
        return Ceilings(self.ceiling_gbps, self.ceiling_tflops, 0)

    @property
    def bandwidth_share(self) -> float:
        """Model bytes over the time, of the copy bandwidth."""
        return self.gbps / self.ceiling_gbps

    @property
    def rate_share(self) -> float:
        """Model FLOPs over the time, of the matmul rate."""
        return self.tflops / self.ceiling_tflops


class ProtonKernel(Data):
    """A kernel by Triton's Proton, summed over the profiled calls."""

    name: str
    time_ms: float
    count: int


class Reading(Data):
    """A sentence and the rule of docs/profile.md that made it."""

    rule: str
    text: str


class Profile(Data):
    """One case, taken apart."""

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
    """How many calls were profiled."""
    timing: Timing
    kernels: tuple[Kernel, ...]
    counters: tuple[Counters, ...] = ()
    """Launches that Nsight Compute saw and that could not be matched with ``kernels``."""
    proton: tuple[ProtonKernel, ...] = ()
    memory: Memory
    roofline: Roofline
    notes: tuple[str, ...] = ()
    """What could not be had, and why."""
    readings: tuple[Reading, ...] = ()
    machine: dict[str, str | int | float] = Field(default_factory=dict)
    time_utc: str = ""

    @property
    def dram_bytes(self) -> float | None:
        """Bytes that Nsight Compute saw cross device memory in the call; None where any kernel lacks them."""
        counted = [kernel.counters for kernel in self.kernels if kernel.counters] or list(self.counters)
        sizes = [one.dram_bytes for one in counted]
        if not sizes or None in sizes:
            return None
        return sum(size for size in sizes if size is not None)

    @property
    def traffic_ratio(self) -> float | None:
        """Those bytes over the model's."""
        moved = self.dram_bytes
        return None if moved is None else moved / self.roofline.model_bytes


Kernel.model_rebuild()
Timing.model_rebuild()
Profile.model_rebuild()
