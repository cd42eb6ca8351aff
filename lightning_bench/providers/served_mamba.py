"""Kernels of Mamba-2 as Lightning Attention: dt = 1, A = −s, B = k, C = q, x = v. Their states are [e, d]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_bench.case import Device, Direction, Shape
from lightning_bench.providers.registry.packages import installed_version, missing_device, missing_package
from lightning_bench.providers.served import Batch, ServedProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_FLASHINFER = "flashinfer-python"


class MambaStep(ServedProvider):
    """`selective_state_update` of mamba-ssm."""

    name = "mamba-ssm-step"
    label = "mamba-ssm selective_state_update"
    package = "mamba-ssm"
    summary = "Triton, Mamba-2's decoding step with a constant decay"
    one_token = True
    turned_state = True

    def load(self) -> None:
        """Import the function. Raise ImportError if the package or its extension is broken."""
        self._update()

    def _update(self) -> Callable[..., Any]:
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update

        return selective_state_update  # type: ignore[no-any-return]

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call. dt, A, D and the bias of dt are one number per head, as in Mamba-2."""
        import torch

        update = self._update()
        sequences, heads, dim = batch.v.shape
        per_head = torch.zeros(heads, device=batch.v.device)
        dt = torch.ones(sequences, heads, device=batch.v.device)[..., None].expand(-1, -1, dim)
        a = (-batch.slopes)[:, None, None].expand(-1, dim, batch.k.shape[2])
        skip = per_head[:, None].expand(-1, dim)
        return lambda: batch.as_given(
            update(
                batch.pool,
                batch.v,
                dt,
                a,
                batch.k,
                batch.q,
                skip,
                dt_bias=skip,
                state_batch_indices=batch.slots,
            )
        )


class FlashinferStep(MambaStep):
    """`flashinfer.mamba.selective_state_update`."""

    name = "flashinfer-decode"
    label = "FlashInfer selective_state_update"
    package = "flashinfer"  # as listings have room for; the distribution has another name
    summary = "CUDA, compiled at its first call; Mamba-2's decoding step with a constant decay"

    def version(self) -> str:
        """Return the installed version of flashinfer-python, or ""."""
        return installed_version(_FLASHINFER)

    def unavailable(self, device: Device) -> str | None:
        """Return why it cannot run on this machine, or None."""
        return missing_device(self, device) or missing_package(_FLASHINFER)

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why this case is not supported, or None; FlashInfer compiles its kernels for these dims."""
        reason = super().unsupported(shape, direction)
        if reason is None and (not 32 <= shape.head_dim <= 256 or shape.head_dim % 16):
            return f"{self.name} takes a head_dim from 32 to 256 in steps of 16, not {shape.head_dim}"
        if reason is None and (shape.value_dim < 32 or shape.value_dim % 8):
            return f"{self.name} takes a value_dim of 32 or more in steps of 8, not {shape.value_dim}"
        return reason

    def _update(self) -> Callable[..., Any]:
        from flashinfer.mamba import selective_state_update

        return selective_state_update  # type: ignore[no-any-return]


class MambaChunk(ServedProvider):
    """`mamba_chunk_scan_combined` of mamba-ssm; torch copies the states from the pool and back."""

    name = "mamba-ssm-chunk"
    label = "mamba-ssm chunk scan"
    package = "mamba-ssm"
    summary = "Triton, Mamba-2's chunk scan with a constant decay, states copied"
    self_tuning = True
    turned_state = True

    def load(self) -> None:
        """Import the function. Raise ImportError if the package or its extension is broken."""
        self._scan()

    def _scan(self) -> Callable[..., Any]:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        return mamba_chunk_scan_combined  # type: ignore[no-any-return]

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call, in chunks of 256 tokens as in Mamba-2."""
        import torch

        scan, a = self._scan(), -batch.slopes
        q, k, v = (batch.as_given(x) for x in (batch.q, batch.k, batch.v))
        dt = torch.ones(v.shape[:3], device=v.device)
        return batch.carried(
            lambda states: scan(v, dt, a, k, q, 256, initial_states=states, return_final_states=True)
        )
