"""The inline assembly of the kernel: a few PTX instructions on arrays."""

import re

import numpy as np

from .arrays import BFLOAT16, FLOAT16, FLOAT32, INT32, Tile, as_tile, joined, rounded

_PACKED = {"bf16x2": BFLOAT16, "f16x2": FLOAT16}
_COMPARE = {"setp.ge.s32": np.greater_equal, "setp.gt.s32": np.greater, "setp.ne.s32": np.not_equal}
_SMALLEST = np.float32(2.0**-126)
_OFF = np.float32(1 + 2.0**-22)


def run(text: str, arguments: list[Tile], dtype) -> Tile:
    """Run instructions on tiles: `$0` is the result, `$1` the first argument."""
    like = next((x for x in arguments if isinstance(x, Tile)), Tile(np.float32(0), FLOAT32))
    tiles = [as_tile(x, like) for x in arguments]
    registers = {f"${i}": tile.data for i, tile in enumerate(tiles, 1)}
    reads: tuple = ()
    for tile in tiles:
        reads = joined(reads, tile.reads)
    for line in filter(None, (line.strip() for line in text.strip("{} ").split(";"))):
        name, rest = line.split(None, 1)
        target, *operands = (operand.strip() for operand in rest.split(","))
        if name != ".reg":
            values = [registers[x] if x in registers else _constant(x) for x in operands]
            registers[target] = _instruction(name, values)
    result = registers["$0"]
    if dtype is INT32:
        return Tile(result, dtype, reads)
    return Tile(np.asarray(rounded(result, dtype), np.float32), dtype, reads)


def _constant(text: str) -> np.float32 | int:
    if not text.startswith("0f"):
        return int(text)
    return np.asarray([int(text[2:], 16)], np.uint32).view(np.float32)[0]


def _instruction(name: str, x: list) -> np.ndarray:
    if name == "ex2.approx.ftz.f32":
        # It may be off by 2⁻²², and is here, always to the same side: what adds up shall be seen.
        power = np.asarray(x[0], np.float32)
        result = np.exp2(power) * np.where(power == np.rint(power), np.float32(1), _OFF)
        return np.where(np.abs(result) < _SMALLEST, np.float32(0), result)
    packed = re.fullmatch(r"(mul|fma)\.rn\.(bf16x2|f16x2)", name)
    if packed and packed[1] == "mul":
        return rounded(x[0] * x[1], _PACKED[packed[2]])
    if packed:
        # The product of two such numbers is exact in fp32.
        return rounded(x[0] * x[1] + x[2], _PACKED[packed[2]])
    if name in _COMPARE:
        return _COMPARE[name](x[0], x[1])
    if name == "setp.ge.xor.s32":
        return np.greater_equal(x[0], x[1]) ^ x[2]
    if name == "selp.f32":
        return np.where(x[2], x[0], x[1])
    raise NotImplementedError(f"PTX instruction {name}")
