"""The table of the Hopper kernel's tiles in docs/kernels.md, from `lightning_kernels.lightning2.tiles`.

python scripts/tiles_table.py             # prints it
python scripts/tiles_table.py --write     # puts it between its marks in docs/kernels.md
"""

import argparse
from pathlib import Path

from lightning_kernels.lightning2.tiles import LARGEST_SHARED_BYTES, HopperTiles, hopper_tiles

PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"
BEGIN, END = "<!-- tiles: written by scripts/tiles_table.py -->\n", "<!-- end of tiles -->\n"
HEAD = (
    "| head_dim tile × columns | loads | in segments | stages | copies | blocks per turn | state warps | "
    "registers per thread: state, output, loader | shared bytes | free |\n" + "|---" * 10 + "|\n"
)


def tiles() -> list[HopperTiles]:
    """Return the tiles that launches take, the smallest first."""
    return sorted({
        choice._replace(tiles_e=1)
        for d in (64, 128, 256)
        for e in (32, 64, 128, 256)
        for programs in (16, 128)
        for elements in (0, 2**23, 2**25)
        for ahead in (False, True)
        if not (choice := hopper_tiles(d, e, False, programs, 132, elements, ahead)).wide or not ahead
    })  # fmt: skip


def table() -> str:
    """Return the table in Markdown."""
    return HEAD + "".join(
        f"| {x.block_d} × {x.columns} | {'TMA' if x.boxes else 'cp.async'} | {'yes' if x.ahead else 'no'} | "
        f"{x.stages} | {x.copies} | {2 if x.pairs else 1} | {x.state_warps} | "
        f"{x.state_registers}, {x.output_registers}, {x.loader_registers} | "
        f"{x.shared_bytes():,} | {LARGEST_SHARED_BYTES - x.shared_bytes():,} |\n"
        for x in tiles()
    )


def page(text: str) -> str:
    """Return the page with the table between its marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/kernels.md")
    if parser.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")
