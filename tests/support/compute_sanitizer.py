"""Stands for compute-sanitizer without a GPU: it runs its command and writes a log in the same form.

It checks nothing: the log of its n-th call is `log-n` beside it, or else that of a clean run. Its options,
and whether what it runs is told to cache no memory, are kept in `calls.jsonl` beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
FORKS = False
# From the manual, "memcheck_demo Output with Memcheck (Debug Build)", without its backtraces.
OUT_OF_BOUNDS = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at unaligned_kernel()+0x100 in memcheck_demo.cu:34
=========     by thread (0,0,0) in block (0,0,0)
=========     Address 0x7cc43aa00001 is misaligned
=========     and is inside the nearest allocation at 0x7cc43aa00000 of size 4 bytes
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: run_unaligned() [0xacd4] in memcheck_demo
=========         Host Frame: main [0xae61] in memcheck_demo
=========
========= Invalid __global__ write of size 4 bytes
=========     at out_of_bounds_function()+0xb0 in memcheck_demo.cu:39
=========     by thread (0,0,0) in block (0,0,0)
=========     Address 0x87654320 is out of bounds
=========     and is 137,179,965,896 bytes before the nearest allocation at 0x7cc43a800000 of size 1024 bytes
=========         Device Frame: out_of_bounds_kernel()+0x30 in memcheck_demo.cu:44
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: run_out_of_bounds() [0xadb6] in memcheck_demo
=========
========= ERROR SUMMARY: 2 errors
"""
FIRST = (
    "Invalid __global__ write of size 4 bytes, at unaligned_kernel()+0x100 in memcheck_demo.cu:34, by thread "
    "(0,0,0) in block (0,0,0), Address 0x7cc43aa00001 is misaligned and is inside the nearest allocation at "
    "0x7cc43aa00000 of size 4 bytes"
)


def install(folder: Path, *logs: str, forks: bool = True) -> Path:
    """Put the program into a folder, with the logs of its first calls, and return its path.

    It forks what it runs from the server of the tests, unless what it has started is of interest.
    """
    program = folder / "compute-sanitizer"
    program.write_text(
        f"#!{sys.executable}\n{Path(__file__).read_text()}".replace("FORKS = False", f"FORKS = {forks}", 1)
    )
    program.chmod(0o755)
    for number, text in enumerate(logs, start=1):
        (folder / f"log-{number}").write_text(text)
    return program


def run(command: list[str]) -> int:
    """Run `python -c CODE REQUEST` with all descriptors of this process and return its exit code."""
    if not FORKS:
        return subprocess.run(command, close_fds=False, check=False).returncode
    from tests.support.forked_workers import run_on_descriptors

    return run_on_descriptors(command[-2], json.loads(command[-1]))


def main() -> int:
    """Run the command behind the options; end with its exit code, or with that for errors."""
    here, words = Path(sys.argv[0]).parent, sys.argv[1:]
    start = words.index(sys.executable)
    options = dict(zip(words[:start:2], words[1:start:2], strict=True))
    log = Path(options["--log-file"])
    with (here / "calls.jsonl").open("a") as calls:
        kept = os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING")
        calls.write(json.dumps([options, kept]) + "\n")
    code = run(words[start:])
    number = len((here / "calls.jsonl").read_text().splitlines())
    planned = here / f"log-{number}"
    text = planned.read_text() if planned.exists() else CLEAN
    if code < 0:
        text += "========= Error: process didn't terminate successfully\n"
    log.write_text(text)
    return 86 if "SUMMARY: 0" not in text else 255 if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
