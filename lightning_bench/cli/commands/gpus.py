"""`lbench gpus`: the GPUs that a sweep can use here, and who uses them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lightning_bench.cli.shared.common_options import Json

if TYPE_CHECKING:
    from lightning_bench.machine.gpu import Gpu


@dataclass(frozen=True)
class ListedGpu:
    """A GPU or MIG slice: as `--gpus` names it, as rows name it, its limit, and who uses it.

    `held_by` is the process of an lbench sweep, None for nobody, 0 for one that is not known; `processes` is
    what NVML says of all processes on the GPU.
    """

    number: int
    uuid: str
    name: str
    gpu_uuid: str
    power_limit_w: float | None
    ecc: str
    held_by: int | None
    processes: str

    @property
    def used_by(self) -> str:
        """Who uses it, for people."""
        sweep = "" if self.held_by is None else f"lbench, pid {self.held_by or 'unknown'}"
        return "; ".join(filter(None, [sweep, self.processes])) or "nobody"


def gpus(as_json: Json = False) -> None:
    """List the GPUs and MIG slices that CUDA may use here, each with its number for --gpus."""
    import os

    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine.gpu import usable_gpus, why_no_gpu

    sink = Sink(as_json=as_json)
    reason = why_no_gpu()
    listed = [] if reason else [_listed(number, gpu) for number, gpu in enumerate(usable_gpus())]
    if as_json:
        sink.data([asdict(gpu) for gpu in listed])
        return
    if reason:
        count = len(os.sched_getaffinity(0))
        why = f"no GPU: {reason}. --gpus cpu:N divides the {count} processors here into N slots"
        sink.prose((why, ""))
        return
    cells = [
        [str(gpu.number), gpu.name, gpu.uuid, f"{gpu.power_limit_w or 0:.0f}", gpu.ecc, gpu.used_by]
        for gpu in listed
    ]
    sink.grid(["GPU", "name", "UUID", "W", "ECC", "used by"], cells, wrapped=5)


def _listed(number: int, gpu: Gpu) -> ListedGpu:
    from lightning_bench.machine.gpu import gpu_limits
    from lightning_bench.machine.identity import identity
    from lightning_bench.machine.place_lock import holder
    from lightning_bench.measure.foreign import gpu_processes

    limits = gpu_limits(gpu)
    seen = gpu_processes("cuda", gpu)
    return ListedGpu(
        number=number,
        uuid=gpu.uuid,
        name=gpu.name,
        gpu_uuid=identity(gpu.uuid),
        power_limit_w=limits.power_w,
        ecc=limits.ecc,
        held_by=holder(gpu.uuid),
        processes="" if seen is None else str(seen.everyone()),
    )
