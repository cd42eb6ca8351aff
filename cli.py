"""``python cli.py …`` from a bare checkout is ``lbench …``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from lightning_bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
