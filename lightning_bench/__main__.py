"""``python -m lightning_bench …`` is ``lbench …``."""

from lightning_bench.cli import main

if __name__ == "__main__":
    main()
