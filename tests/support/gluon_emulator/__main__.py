"""Run one trial, or random trials for some seconds: python -m tests.support.gluon_emulator SEED [SECONDS]."""

import sys

from .fuzz import draw, fuzz
from .trials import run

if not 2 <= len(sys.argv) <= 3:
    sys.exit("usage: python -m tests.support.gluon_emulator SEED [SECONDS]")
if len(sys.argv) == 2:
    print(draw(int(sys.argv[1])))
    print(run(draw(int(sys.argv[1])), int(sys.argv[1])))
else:
    sys.exit(bool(fuzz(int(sys.argv[1]), float(sys.argv[2]), lambda line: print(line, flush=True))))
