"""The peers that a kit can hold (scripts/kit.py), in the versions of results/h200.

Of engines whose wheels are large, only the files that providers import are packed; what those import of the
rest is stood in for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """A library to compare with: what pip fetches, which of its files are packed, and how it is found."""

    wheels: tuple[str, ...]
    """Requirements, or paths of wheels that no registry has; `name==version (source)` is an sdist."""
    files: tuple[str, ...] = ("*",)
    """Patterns of the files to pack; metadata always are."""
    paths: tuple[str, ...] = ()
    """Folders of the site that must be on PYTHONPATH, too."""
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    """Files that stand for what the packed ones import of the rest."""
    needs: tuple[str, ...] = ()
    """What its files import besides torch and Triton, in the versions of constraints.txt."""


_EINOPS = ("einops",)
_VLLM = {
    "vllm/platforms.py": "class current_platform:\n    is_cuda = staticmethod(lambda: True)\n",
    "vllm/triton_utils.py": "import triton\nimport triton.language as tl\n",
    "vllm/v1/attention/backends/utils.py": "PAD_SLOT_ID = -1\n",
}
_FLASHINFER = {
    "flashinfer/__init__.py": "from .version import __version__\n",
    "flashinfer/jit/__init__.py": "from . import env\nfrom .core import gen_jit_spec\n",
    "flashinfer/mamba/__init__.py": "from .selective_state_update import selective_state_update\n",
}
_FLASHINFER_FILES = (
    *(
        f"flashinfer/{name}.py"
        for name in ("_build_meta", "api_logging", "compilation_context", "utils", "version")
    ),
    "flashinfer/trace/*",
    *(
        f"flashinfer/jit/{name}.py"
        for name in ("_cuda_architecture", "core", "cpp_ext", "cute_dsl_core", "env")
    ),
    *(f"flashinfer/jit/{name}.py" for name in ("mamba/*", "spdlog", "utils")),
    "flashinfer/mamba/selective_state_update.py",
    "flashinfer/data/csrc/flashinfer_mamba_binding.cu",
    "flashinfer/data/csrc/selective_state_update*",
    "flashinfer/data/csrc/*.h",
    "flashinfer/data/include/flashinfer/*",
    "flashinfer/data/cccl/libcudacxx/include/*",
)
_MAMBA = (
    "mamba_ssm/ops/triton/*.py",
    "mamba_ssm/utils/torch.py",
    "mamba_ssm/utils/determinism.py",
)
PEERS = {
    "flash2": Peer(("flash-attn==2.8.3.post2",)),
    "flash4": Peer(
        (
            "flash-attn-4==4.0.0b36",
            "nvidia-cutlass-dsl==4.6.2",
            "nvidia-cutlass-dsl-libs-base==4.6.2",
            "nvidia-cutlass-dsl-libs-core==4.6.2",
            "nvidia-cutlass-dsl-libs-cu13==4.6.2",
            "apache-tvm-ffi==0.1.11",
            "torch-c-dlpack-ext==0.1.5",
            "quack-kernels==0.5.3",
        ),
        paths=("nvidia_cutlass_dsl/dsl_packages",),
        needs=_EINOPS,
    ),
    "fla": Peer(("fla-core==0.6.0", "flash-linear-attention==0.6.0"), needs=_EINOPS),
    "lightning-attn": Peer(("lightning-attn==0.0.5",)),
    "xformers": Peer(("xformers==0.0.35", "nvidia-cuda-runtime-cu12==12.8.90")),
    "sglang": Peer(
        ("sglang==0.5.23",),
        (
            "sglang/kernels/ops/attention/linear/seg_la.py",
            "sglang/kernels/ops/attention/linear/lightning_attn.py",
        ),
        needs=_EINOPS,
    ),
    "vllm": Peer(
        ("vllm==0.33.0",),
        ("vllm/model_executor/layers/lightning_attn.py",),
        stand_ins=_VLLM,
        needs=_EINOPS,
    ),
    # nvcc and ninja compile its kernels at the first call: the machine must have both.
    "flashinfer": Peer(
        ("flashinfer-python==0.7.4", "apache-tvm-ffi==0.1.11"),
        (*_FLASHINFER_FILES, "tvm_ffi/*"),
        stand_ins=_FLASHINFER,
    ),
    "mamba": Peer(("mamba-ssm==2.3.2.post1 (source)",), _MAMBA, needs=_EINOPS),
}
