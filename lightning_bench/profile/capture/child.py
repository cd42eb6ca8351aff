"""Run one case to be profiled: `python -m lightning_bench.profile.capture.child REQUEST ANSWER`.

REQUEST is a file with a `Request` in JSON; ANSWER gets `{"profile": …}`, `{"done": …}` or
`{"error": "a sentence"}`. It is its own process so that it can be killed, run under Nsight Compute, and start
with no kernel compiled.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from lightning_bench.errors import LbenchError
from lightning_bench.machine.guardian import die_with_parent
from lightning_bench.profile.data import Request


def main(request_path: str, answer_path: str) -> int:
    """Run the case of a request; return 0 if it worked, else 1."""
    die_with_parent()
    request = Request.model_validate_json(Path(request_path).read_text(encoding="utf-8"))
    try:
        answer, code = _answer(request, answer_path), 0
    except Exception as error:  # a library may raise anything
        if not isinstance(error, LbenchError):
            traceback.print_exc()
        answer, code = {"error": _sentence(error)}, 1
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")
    return code


def _answer(request: Request, answer_path: str) -> dict[str, Any]:
    from lightning_bench.profile.capture.case_run import run_calls, take_profile

    if request.mode == "profile":
        return {"profile": take_profile(request).model_dump(mode="json")}
    run_calls(request, answer_path + ".proton")
    return {"done": request.mode}


def _sentence(error: Exception) -> str:
    from lightning_bench.providers import load_error

    return str(error) if isinstance(error, LbenchError) else load_error(error)


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # tearing down a lost CUDA context can hang
