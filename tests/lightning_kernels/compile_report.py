"""Compile the Triton kernels for real GPUs without one and print what each variant takes.

Run as a script, without TRITON_INTERPRET: `python compile_report.py --arch 90 --dtype bf16 --dims 128x128`.
One line a variant: kernel arch dtype head_dim value_dim shared_bytes registers spill_bytes seconds config.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2] / "kernels"))

from lightning_kernels import _config
from lightning_kernels._triton import lightning1, lightning2

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNELS = {
    "lightning1": (lightning1.quadratic_attention_kernel, _config.lightning1_tiles),
    "lightning2": (lightning2.linear_attention_kernel, _config.lightning2_tiles),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compile_variant(name, arch, dtype, head_dim, value_dim, *, decay=True, reverse=False):
    """Compile as the launcher would specialise it and return (shared, registers, spill, seconds, config)."""
    kernel, choose = KERNELS[name]
    tiles = choose(head_dim, value_dim, DTYPES[dtype])
    constants = {
        "D": head_dim, "E": value_dim, "BLOCK": tiles.block, "BLOCK_D": tiles.block_d,
        "BLOCK_E": tiles.block_e, "HAS_DECAY": decay, "REVERSE": reverse,
    }  # fmt: skip
    signature, divisible = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "slope_ptr":
            signature[argument] = "*fp32"
        elif argument.endswith("_ptr"):
            signature[argument] = "*" + dtype
        else:
            signature[argument] = "i32"
        if argument.endswith("_ptr") or ("stride" in argument and head_dim % 16 == value_dim % 16 == 0):
            divisible[(index,)] = [["tt.divisibility", 16]]
    start = time.perf_counter()
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", cubin.name], check=True, capture_output=True, text=True
        ).stdout
    registers = int(re.search(r"REG:(\d+)", usage)[1])
    spill = int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1])
    return compiled.metadata.shared, registers, spill, f"{seconds:.1f}", tiles


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--arch", nargs="+", type=int, default=[90, 80])
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--dims", nargs="+", default=["64x64", "128x128", "256x256"])
    parser.add_argument("--reverse", action="store_true")
    parser.add_argument("--no-decay", action="store_true")
    args = parser.parse_args()
    for name in args.kernel:
        for arch in args.arch:
            for dtype in args.dtype:
                for dims in args.dims:
                    d, e = map(int, dims.split("x"))
                    figures = compile_variant(
                        name, arch, dtype, d, e, decay=not args.no_decay, reverse=args.reverse
                    )
                    print(name, arch, dtype, d, e, *figures, flush=True)


if __name__ == "__main__":
    main()
