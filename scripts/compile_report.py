"""Compile the Triton kernels for real GPUs without one and print what each variant takes.

Run as a script, without TRITON_INTERPRET: `python compile_report.py --arch 90 --dtype bf16 --dims 128x128`.
One line per variant: kernel arch dtype head_dim value_dim shared_bytes registers spill_bytes waits/products
seconds config. Where registers are short in one part of a kernel, the compiler lets each of its products
(wgmma) wait for the one before, which can cost half of the speed.

`--hopper` takes all variants of the Hopper kernel instead, and `--csv FILE` also writes a CSV, to compare the
kernel before and after a change: `code` is a digest of its instructions, `setmaxnreg` the registers per
thread that they set for its roles.
"""

import argparse
import csv
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))

from lightning_kernels.gateloop import gateloop_kernel as gateloop
from lightning_kernels.lightning1 import lightning1_kernel as lightning1
from lightning_kernels.lightning2 import chunk_kernels
from lightning_kernels.lightning2 import portable as lightning2
from lightning_kernels.lightning2.tiles import (
    hopper_tiles,
    lightning1_tiles,
    lightning2_tiles,
    serve_tiles,
    state_grad_tiles,
)
from lightning_kernels.norm import norm_kernel as norm
from lightning_kernels.serving import bitwise_kernel as bitwise
from lightning_kernels.serving import serve_kernel as serve
from lightning_kernels.serving import verify_kernel as verify
from lightning_kernels.step import step_kernel as step

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SHARED_LIMIT = {80: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
KERNELS = (
    "lightning1", "lightning2", "step", "hopper", "norm", "gateloop", "serve", "verify", "bitwise", "states",
)  # fmt: skip
FEATURES = (
    "decay", "reverse", "initial", "final", "packed", "few", "long", "ahead", "pool",
    "steps", "snapshots", "stochastic", "accepted", "halved",
)  # fmt: skip
STEP_STATES = 64 * 32
"""Batch times heads of the step kernel, which chooses its tiles by them."""
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

HOPPER_VARIANTS = (
    ("bf16 fp16", "64x64 128x128 256x256", "decay"),
    ("bf16", "96x96 64x128 128x64 64x32", "decay"),
    ("bf16", "64x64 64x128 128x128 256x256", "decay ahead"),
    ("bf16", "64x64 128x128 256x256", "decay initial final packed"),
    ("bf16", "64x64 128x128", "initial final"),
    ("bf16", "64x64 96x96 128x128", "decay few"),
    ("bf16", "64x64 96x96 128x128 256x256", "decay few ahead"),
    ("bf16", "64x64 128x128", "decay few long"),
    ("bf16", "64x64 128x128 256x256", "decay initial final packed pool"),
    ("bf16", "64x64 128x128 256x256", "decay initial final packed few pool"),
    ("bf16", "64x64 128x128 256x256", "decay initial final packed pool halved"),
    ("bf16", "64x64 96x96 128x128 256x256", "decay few long ahead"),
    ("fp16", "64x64 128x128", "decay initial final few long ahead"),
    ("bf16 fp16", "256x256 192x240", "decay long"),
    ("bf16", "256x256 192x80", "decay initial final long"),
    ("bf16 fp16", "64x64 128x128 256x256", "decay reverse"),
    ("bf16 fp16", "256x256 192x240", "decay reverse long"),
    ("bf16", "208x80", "decay reverse long"),
    ("bf16", "256x256", "reverse long"),
    ("bf16", "96x96", "decay reverse"),
    ("bf16", "64x64 96x96 128x128 256x256", "decay reverse ahead"),
    ("bf16", "64x64 128x128 80x192", "decay reverse initial final packed"),
    ("bf16", "64x64 128x128 256x256", "decay reverse initial final packed ahead"),
    ("bf16", "128x128", "reverse initial final ahead"),
)
"""Dtypes, dims and features: every tile of the Hopper kernel, each direction, with and without states."""


class Variant(NamedTuple):
    """One compilation of one kernel."""

    kernel: str
    arch: int
    dtype: str
    head_dim: int
    value_dim: int
    features: tuple[str, ...]


class Report(NamedTuple):
    """What the compiler says of a variant."""

    shared_bytes: int
    registers: int
    spill_bytes: int
    waits: int
    products: int
    setmaxnreg: str
    code: str
    seconds: float
    config: str


def variant(name, arch, dtype, head_dim, value_dim, features):
    """Return the kernel, its constants, its options, the types of arguments that differ, and its config."""
    constants = {"D": head_dim, "E": value_dim, "HAS_DECAY": "decay" in features}
    if name == "step":
        block_e, warps = step.step_tile_of(STEP_STATES, head_dim, value_dim)
        constants |= {"BLOCK_D": max(16, triton.next_power_of_2(head_dim)), "BLOCK_E": block_e}
        constants |= {"index_ptr": None, "seed_ptr": None, "GROUP": 1}
        options, types = {"num_warps": warps}, {"state_ptr": "*fp32", "scale": "fp32"}
        return step.attention_step_kernel, constants, options, types, f"{block_e=} {warps=}"
    if name == "bitwise":
        return bitwise_variant(arch, dtype, head_dim, value_dim, features)
    if name == "verify":
        return verify_variant(head_dim, value_dim, features)
    if name == "hopper":
        return hopper_variant(head_dim, value_dim, features)
    if name == "serve":
        return serve_variant(arch, dtype, head_dim, value_dim, features)
    if name == "states":
        return states_variant(arch, dtype, head_dim, value_dim, features)
    if name == "norm":  # of contiguous rows of head_dim elements; `reverse` is its backward pass
        rows, block, warps = norm.norm_tile(head_dim)
        constants = {"D": head_dim, "ROWS": rows, "BLOCK_D": block, "ONE_DIM": True}
        kernel = norm.norm_backward_kernel if "reverse" in features else norm.norm_forward_kernel
        return kernel, constants, {"num_warps": warps}, {"eps": "fp32"}, f"rows={rows} warps={warps}"
    if name == "gateloop":  # complex gates on head_dim channels; `reverse` is the gradient of a tile
        block = min(gateloop._CHANNELS[True], head_dim)
        constants = {"T": gateloop._TOKENS, "C": block, "COMPLEX": True}
        kernel = gateloop.gradient_kernel if "reverse" in features else gateloop.output_kernel
        types = {"state_ptr": "*fp32", "grad_state_ptr": "*fp32"}
        return kernel, constants, {"num_warps": gateloop._WARPS}, types, f"tokens={gateloop._TOKENS} {block=}"
    constants["REVERSE"] = "reverse" in features
    if name == "lightning1":
        kernel, types = lightning1.quadratic_attention_kernel, {}
        tiles = lightning1_tiles(head_dim, value_dim, DTYPES[dtype])
    else:
        kernel = lightning2.linear_attention_kernel
        types = {"initial_ptr": "*fp32", "final_ptr": "*fp32", "offsets_ptr": "*i32", "scale": "fp32"}
        tiles = lightning2_tiles(head_dim, value_dim, DTYPES[dtype], SHARED_LIMIT[arch])
        constants |= {
            "HAS_INITIAL": "initial" in features, "HAS_FINAL": "final" in features,
            "PACKED": "packed" in features, "PRECISION": tiles.precision,
        }  # fmt: skip
    constants |= {"BLOCK": tiles.block, "BLOCK_D": tiles.block_d, "BLOCK_E": tiles.block_e}
    return kernel, constants, {"num_warps": tiles.warps, "num_stages": tiles.stages}, types, str(tiles)


def serve_variant(arch, dtype, head_dim, value_dim, features):
    """Return the same for the kernel that serves: with `steps` its launch for a batch that only decodes."""
    blockwise = "steps" not in features
    tiles = serve_tiles(head_dim, value_dim, DTYPES[dtype], SHARED_LIMIT[arch])
    if not blockwise:
        tiles = serve.step_tiles(tiles, STEP_STATES, head_dim, value_dim)
    constants = {
        "D": head_dim, "E": value_dim, "HAS_DECAY": "decay" in features, "BLOCK": tiles.block,
        "BLOCK_D": tiles.block_d, "BLOCK_E": tiles.block_e, "BLOCKWISE": blockwise, "WALKED": serve.WALKED,
        "PRECISION": tiles.precision, "GROUP": 1,
    }  # fmt: skip
    absent = {
        "slope_ptr": "decay", "snapshot_ptr": "snapshots", "context_ptr": "snapshots",
        "seed_ptr": "stochastic",
    }  # fmt: skip
    constants |= {argument: None for argument, feature in absent.items() if feature not in features}
    indices = ("bounds_ptr", "input_ptr", "output_ptr", "context_ptr", "snapshot_ptr")
    types = {
        "state_ptr": "*bf16" if "stochastic" in features else "*fp32", "initial_ptr": "*i1",
        "seed_ptr": "*i64", "scale": "fp32", **dict.fromkeys(indices, "*i32"),
    }  # fmt: skip
    return (
        serve.serve_kernel,
        constants,
        {"num_warps": tiles.warps, "num_stages": tiles.stages},
        types,
        str(tiles),
    )


def bitwise_variant(arch, dtype, head_dim, value_dim, features):
    """Return the same for the kernel whose bits do not depend on calls."""
    tiles = lightning2_tiles(head_dim, value_dim, DTYPES[dtype], SHARED_LIMIT[arch])
    constants = {
        "D": head_dim, "E": value_dim, "HAS_DECAY": "decay" in features, "BLOCK": tiles.block,
        "BLOCK_D": tiles.block_d, "BLOCK_E": tiles.block_e, "PRECISION": tiles.precision,
    }  # fmt: skip
    absent = {"slope_ptr": "decay", "snapshot_ptr": "snapshots"}
    constants |= {argument: None for argument, feature in absent.items() if feature not in features}
    indices = ("bounds_ptr", "input_ptr", "output_ptr", "context_ptr", "snapshot_ptr")
    types = {"state_ptr": "*fp32", "scale": "fp32", **dict.fromkeys(indices, "*i32")}
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    return bitwise.bitwise_kernel, constants, options, types, str(tiles)


def verify_variant(head_dim, value_dim, features):
    """Return the same for the kernel of drafts."""
    block_e = step.step_block_e(STEP_STATES, head_dim, value_dim)
    constants = {
        "GROUP": 1,
        "D": head_dim,
        "E": value_dim,
        "HAS_DECAY": "decay" in features,
        "BLOCK_E": block_e,
    }
    constants["BLOCK_D"] = max(16, triton.next_power_of_2(head_dim))
    absent = {
        "slope_ptr": "decay", "kept_k_ptr": "accepted", "kept_v_ptr": "accepted", "accepted_ptr": "accepted",
        "seed_ptr": "stochastic",
    }  # fmt: skip
    constants |= {argument: None for argument, feature in absent.items() if feature not in features}
    types = {
        "state_ptr": "*bf16" if "stochastic" in features else "*fp32", "seed_ptr": "*i64", "scale": "fp32",
        "index_ptr": "*i32", "accepted_ptr": "*i32",
    }  # fmt: skip
    return verify.verify_kernel, constants, {"num_warps": verify._WARPS}, types, f"block_e={block_e}"


def states_variant(arch, dtype, head_dim, value_dim, features):
    """Return the same for the sums of chunks; `reverse` is the gradient of v, whose width is value_dim."""
    constants = {"HAS_DECAY": "decay" in features, "PACKED": "packed" in features}
    types = {"sums_ptr": "*fp32", "grad_ptr": "*fp32", "offsets_ptr": "*i32"}
    if "reverse" in features:
        kernel = chunk_kernels.chunk_grads_kernel
        tiles = state_grad_tiles(head_dim, value_dim, DTYPES[dtype])
        constants |= {"IN": head_dim, "OUT": value_dim, "BLOCK_IN": tiles.block_d, "BLOCK_OUT": tiles.block_e}
    else:
        kernel = chunk_kernels.chunk_sums_kernel
        tiles = lightning2_tiles(head_dim, value_dim, DTYPES[dtype], SHARED_LIMIT[arch])
        constants |= {"D": head_dim, "E": value_dim, "BLOCK_D": tiles.block_d, "BLOCK_E": tiles.block_e}
        constants |= {"LAST": True, "REVERSE": False}
    constants |= {"BLOCK": tiles.block, "PRECISION": tiles.precision}
    return kernel, constants, {"num_warps": tiles.warps, "num_stages": tiles.stages}, types, str(tiles)


def hopper_variant(head_dim, value_dim, features):
    """Return the same for the Hopper kernel: `reverse` is its backward pass, `few` few heads on an H200,
    `long` many tokens, which TMA brings, `ahead` segments, `pool` states in a pool, `halved` in bf16.
    """
    from triton.experimental.gluon.language import NVMMASharedLayout

    from lightning_kernels.lightning2.hopper.kernel import linear_attention_kernel

    tiles = tiles_of(head_dim, value_dim, features)
    backward = "reverse" in features
    constants = {"D": head_dim, "E": value_dim, "TILES": tiles, "BACKWARD": backward}
    absent = {
        "slope_ptr": "decay", "initial_ptr": "initial", "grad_state_ptr": "initial", "final_ptr": "final",
        "offset_ptr": "packed", "g_ptr": "reverse", "dk_ptr": "reverse", "dv_ptr": "reverse",
        "sums_ptr": "ahead", "flags_ptr": "ahead",
        "slot_ptr": "pool", "leaving_ptr": "pool", "begun_ptr": "pool",
    }  # fmt: skip
    constants |= {argument: None for argument, feature in absent.items() if feature not in features}
    states = ("initial_ptr", "grad_state_ptr", "final_ptr")
    types = {"offset_ptr": "*i32"} | dict.fromkeys(states, "*bf16" if "halved" in features else "*fp32")
    types |= {"sums_ptr": "*fp32", "flags_ptr": "*i32", "slot_ptr": "*i32", "leaving_ptr": "*i32"}
    types["begun_ptr"] = "*u8"
    whole, part = tiles.block_d, tiles.columns
    widths = {"q_box": whole, "k_box": whole, "v_box": whole if backward else part, "g_box": whole}
    widths |= dict.fromkeys(("part_q_box", "part_k_box", "part_g_box"), part)
    for box, width in widths.items():
        if tiles.boxes and (backward or box in ("q_box", "k_box", "v_box")):
            layout = NVMMASharedLayout(min(128, 2 * width), 16, 4)
            types[box] = f"tensordesc<DTYPE[1, 1, 64, {width}],{layout!r}>"
        else:
            constants[box] = None
    options = {"num_warps": tiles.state_warps}
    return linear_attention_kernel, constants, options, types | {"scale": "fp32"}, tiles.config


def tiles_of(head_dim, value_dim, features):
    """Return the `HopperTiles` of a variant."""
    programs, elements = 16 if "few" in features else 128, 2**25 if "long" in features else 0
    backward, ahead = "reverse" in features, "ahead" in features
    return hopper_tiles(head_dim, value_dim, backward, programs, 132, elements, ahead)


def compile_variant(name, arch, dtype, head_dim, value_dim, features):
    """Compile as the launcher would specialise it; return a `Report`."""
    kernel, constants, options, types, config = variant(name, arch, dtype, head_dim, value_dim, features)
    for flag, argument in (
        ("HAS_DECAY", "slope_ptr"), ("HAS_INITIAL", "initial_ptr"), ("HAS_FINAL", "final_ptr"),
        ("PACKED", "offsets_ptr"),
    ):  # fmt: skip
        if not constants.get(flag, True):
            constants[argument] = None
    signature, divisible = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        if argument.endswith("_box"):
            signature[argument] = types[argument].replace("DTYPE", dtype)
        elif argument == "slope_ptr":
            signature[argument] = "*fp32"
        elif argument.endswith("_ptr"):
            signature[argument] = types.get(argument, "*" + dtype)
        else:
            signature[argument] = types.get(argument, "i32")
        pointer = argument.endswith("_ptr") and argument not in kernel.do_not_specialize_on_alignment
        if pointer or ("stride" in argument and head_dim % 16 == value_dim % 16 == 0):
            divisible[(index,)] = [["tt.divisibility", 16]]
    start = time.perf_counter()
    source = source_type(name)(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", cubin.name)
        disassembled = name in ("hopper", "serve", "bitwise")
        sass = tool("nvdisasm", "-c", "-ndf", "-raw", cubin.name) if disassembled else ""
    code = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?;)", sass, re.MULTILINE)
    roles = {int(count, 16) for line in code for count in re.findall(r"USETMAXREG.* (0x[0-9a-f]+)", line)}
    return Report(
        shared_bytes=compiled.metadata.shared,
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        spill_bytes=int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1]),
        waits=sum("WARPGROUP.DEPBAR" in line for line in code),
        products=sum("HGMMA" in line for line in code),
        setmaxnreg="/".join(map(str, sorted(roles))),
        code=hashlib.sha256("\n".join(code).encode()).hexdigest()[:12] if code else "",
        seconds=seconds,
        config=config,
    )


def source_type(name):
    if name != "hopper":
        return ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    return GluonASTSource


def tool(name, *arguments):
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", nargs="+", default=KERNELS[:3], choices=KERNELS)
    parser.add_argument("--arch", nargs="+", type=int, default=[90, 80], choices=list(SHARED_LIMIT))
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--dims", nargs="+", default=["64x64", "128x128", "256x256"])
    parser.add_argument("--with", nargs="*", default=["decay"], choices=FEATURES, dest="features")
    parser.add_argument("--hopper", action="store_true", help="all variants of the Hopper kernel instead")
    parser.add_argument("--csv", type=Path, help="also write a CSV file")
    args = parser.parse_args(arguments)
    reports = []
    print(*Variant._fields[:5], *Report._fields[:3], "waits/products", "seconds", "config", flush=True)
    for case in variants(args):
        report = compile_variant(*case)
        reports.append((case, report))
        shared, registers, spill, waits, products, *_, seconds, config = report
        print(
            *case[:5], shared, registers, spill, f"{waits}/{products}", f"{seconds:.1f}", config, flush=True
        )
    if args.csv is not None:
        write_csv(args.csv, reports)


def variants(args):
    """Yield the variants that the command line asks for."""
    if args.hopper:
        groups = [("hopper", [90], *map(str.split, group)) for group in HOPPER_VARIANTS]
    else:
        groups = [(kernel, args.arch, args.dtype, args.dims, args.features) for kernel in args.kernel]
    for kernel, arches, dtypes, all_dims, features in groups:
        for arch in arches:
            for dtype in dtypes:
                for dims in all_dims:
                    yield Variant(kernel, arch, dtype, *map(int, dims.split("x")), tuple(features))


def write_csv(path, reports):
    """Write one row per variant, without the seconds, so that equal kernels give equal files."""
    columns = [column for column in Report._fields if column != "seconds"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Variant._fields, *columns])
        for case, report in reports:
            figures = [getattr(report, column) for column in columns]
            writer.writerow([*case[:5], " ".join(case.features), *figures])


if __name__ == "__main__":
    main()
