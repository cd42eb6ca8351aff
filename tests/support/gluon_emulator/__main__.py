"""Run one trial, or random trials for some seconds: python -m tests.support.gluon_emulator SEED [SECONDS]."""

import sys

from .fuzz import draw, fuzz
from .trials import run

if not 2 <= len(sys.argv) <= 3:
    sys.exit("usage: python -m tests.support.gluon_emulator SEED [SECONDS]")
if len(sys.argv) == 2:
    trial = draw(int(sys.argv[1]))
    print(trial)
    print(f"passed: largest error {run(trial, int(sys.argv[1])).worst:.2f} of the budget")
else:
    sys.exit(bool(fuzz(int(sys.argv[1]), float(sys.argv[2]), lambda line: print(line, flush=True))))
