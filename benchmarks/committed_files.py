"""The files of results/h200, results/h200-x2 and results/cpu: what makes each, in order of importance.

The only list of these commands. `python -m benchmarks.run_all` measures by it, and
`python -m scripts.docs_tables --write` writes it into the README of each folder, beside what the files say.

A command runs in the root of the repository; `{}` stands for the folder that it writes to. A sweep gets
`--out` with the path of its file. Three processes time each case, as is the default on a GPU, where a single
cell is what README.md and docs/ claim; elsewhere one does, which takes a third of the time.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SWEEPS = ("speed", "memory", "check", "energy", "train", "generate")
APART = ("memory", "train", "generate")


@dataclass(frozen=True)
class CommittedFile:
    """A CSV below results/, or of a folder there that is made as a whole, and what makes it."""

    path: str
    """Below results/, as `h200/paper-speed.csv`; of `h200/profile/calls.csv` the whole folder `profile`."""
    commands: tuple[str, ...]
    """One after the other. Each begins with `lbench` or `python`."""
    seconds: int = 0
    """All of it on one H200, about; 0 for what is measured elsewhere."""
    needs: tuple[str, ...] = ()
    """Import packages and programs that a script needs. What a sweep needs, its providers say."""
    gpus: int = 1
    """How many GPUs it needs; 0 if it needs none."""
    ours: bool = True
    """Whether it has figures of our kernels, and is stale when these change."""
    resumes: bool = False
    """Whether a script that is interrupted goes on where it was, as every sweep does."""
    of_machine: bool = False
    """Whether it has rows for each kind of machine, and is stale where it has none of the machine here."""
    before: str = ""
    """What a shell needs before each command: variables, `nice`."""

    @property
    def folder(self) -> str:
        """The folder below results/, which is named after the machine."""
        return Path(self.path).parts[0]

    @property
    def inside(self) -> str:
        """The path in that folder."""
        return str(Path(self.path).relative_to(self.folder))

    @property
    def name(self) -> str:
        """A name for a folder: `h200-paper-speed`, `h200-profile-calls`."""
        return self.path.removesuffix(".csv").replace("/", "-")

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of all cases of its sweeps, each once; () if a script makes the file."""
        if not all(map(is_sweep, self.commands)):
            return ()
        return tuple(dict.fromkeys(case for command in self.commands for case in planned_cases(command)))

    @property
    def is_apart(self) -> bool:
        """Whether a case is measured while no other is there: its row stands if another's is stale."""
        return all(is_sweep(command) and shlex.split(command)[1] in APART for command in self.commands)

    def shown(self) -> str:
        """Return the commands as a reader types them in the root of the repository."""
        own = Path(self.inside).parts[0]
        commands = (
            f"{self.before} {command}".strip()
            .replace(f"{{}}/{own}", f"results/{self.folder}/{own}")
            .replace("{}/", "")
            for command in self.commands
        )
        return ", then ".join(f"`{command}`" for command in commands)


def is_sweep(command: str) -> bool:
    """Return whether the command is a sweep of `lbench`, which goes on from the rows of its file."""
    words = shlex.split(command)
    return words[0] == "lbench" and words[1] in SWEEPS


@cache
def planned_cases(command: str) -> tuple[str, ...]:
    """Return the ids of the cases of a sweep, as `--dry-run` lists them. RuntimeError if it lists none."""
    from typer.testing import CliRunner

    from lightning_bench.cli.app import app

    words = [*shlex.split(command)[1:], "--dry-run", "--json"]
    for option in {"--gpus", "--executor"} & set(words):  # where they are measured
        at = words.index(option)
        del words[at : at + 2]
    # Elsewhere there are no earlier rows, from which it would estimate how long the sweep takes.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        done = CliRunner().invoke(app, words)
    if done.exit_code:
        raise RuntimeError(
            f"{command} --dry-run: exit code {done.exit_code}: {done.exception or done.output}"
        )
    return tuple(case["case_id"] for case in json.loads(done.stdout)["cases"])


_PUBLISHED_BY_FLA = (
    "flash2,flash2-full,fla-retention-chunk,fla-retention-fused-chunk,fla-based-parallel,fla-based-fused-chunk,"
    "lightning2,lightning2-retention"
)
_REMEASURED = "lightning2,fla-chunk,flash2,sdpa-cudnn,sdpa-flash"
_BOTH_SPEEDS = "lbench speed paper --provider lightning2,lightning-official,flash2"
_SHARED = "--parallel fsdp2 --ranks 2 --seq-len 2k,16k,92k --provider lightning2,sdpa-cudnn"
_PROFILE = "python benchmarks/profile_cases.py {}/profile --providers"

# Seconds: of sweeps what `lbench ... --dry-run` estimates from the committed rows; for systems five minutes
# more, in which fla-core tunes its kernels (suites/systems.toml), and for dims seven, in which it tunes for
# each head_dim. There are no rows of packed and context-parallel: theirs is the estimate from the rows of
# other suites. verdict-power takes 320 times 2.2 s, the column `seconds` of its file; order-of-shapes is
# seven sweeps of two minutes, as `--dry-run` has them, and the start of 21 more processes; timer-agreement
# and profile what the limits in their scripts allow. Of the other scripts no time is recorded: their cells
# times the seconds that they sample one.
FILES: tuple[CommittedFile, ...] = (
    CommittedFile(
        "h200/ceilings.csv", ("lbench ceilings --out {}/ceilings.csv",), 30, ours=False, of_machine=True
    ),
    # What the README says of the kernels.
    CommittedFile("h200/paper-speed.csv", ("lbench speed paper",), 1150),
    CommittedFile("h200/paper-memory.csv", ("lbench memory paper",), 240),
    CommittedFile("h200/parallelism-speed.csv", ("lbench speed parallelism",), 180),
    CommittedFile(
        "h200/head-dim-64-speed.csv",
        ("lbench speed paper --head-dim 64 --seq-len 8192 --provider lightning2",),
        20,
    ),
    CommittedFile(
        "h200/kernels-memory.csv",
        (
            "lbench memory parallelism --provider lightning2",
            "lbench memory dims --provider lightning2 --dtype bf16,fp16 --seq-len 512,16384",
        ),
        30,
    ),
    CommittedFile(
        "h200/dims-speed.csv",
        (
            "lbench speed dims --dtype bf16 --provider lightning2,fla-chunk,fla-fused-chunk",
            "lbench speed dims --processes 1",
        ),
        1800,
    ),
    CommittedFile("h200/long-speed.csv", ("lbench speed long --processes 1",), 540),
    # Serving, beside other engines.
    CommittedFile("h200/decode-speed.csv", ("lbench speed decode",), 420),
    CommittedFile("h200/prefill-speed.csv", ("lbench speed prefill --processes 1",), 300),
    CommittedFile("h200/mixed-speed.csv", ("lbench speed mixed --processes 1",), 70),
    CommittedFile("h200/verify-speed.csv", ("lbench speed verify",), 70),
    CommittedFile(
        "h200/decode-bandwidth.csv",
        ("python benchmarks/decode_bandwidth.py {}/decode-bandwidth.csv",),
        90,
    ),
    CommittedFile(
        "h200/serving-batches.csv",
        ("python benchmarks/serving_batches.py {}/serving-batches.csv --tiles",),
        150,
    ),
    # Whole models.
    CommittedFile("h200/table1-train.csv", ("lbench train table1",), 2280),
    CommittedFile("h200/models-train.csv", ("lbench train models",), 600),
    CommittedFile("h200/generate-generate.csv", ("lbench generate generate",), 1000),
    CommittedFile(
        "h200/paper-energy.csv",
        ("lbench energy paper --direction fwd --seq-len 8k --provider lightning2,fla-chunk,sdpa-cudnn",),
        120,
    ),
    CommittedFile(
        "h200/transformers-minimax.csv",
        ("python benchmarks/transformers_minimax.py {}/transformers-minimax.csv",),
        120,
        needs=("transformers",),
    ),
    # Systems and shapes.
    CommittedFile("h200/systems-speed.csv", ("lbench speed systems --processes 1",), 420),
    CommittedFile("h200/systems-memory.csv", ("lbench memory systems",), 70),
    CommittedFile("h200/layers-speed.csv", ("lbench speed layers --processes 1",), 240),
    CommittedFile("h200/packed-speed.csv", ("lbench speed packed --processes 1",), 70),
    CommittedFile("h200/short-speed.csv", ("lbench speed short --processes 1",), 780),
    CommittedFile("h200/srmsnorm-speed.csv", ("lbench speed srmsnorm --processes 1",), 50),
    CommittedFile("h200/srmsnorm-memory.csv", ("lbench memory srmsnorm",), 90),
    # What a call costs its caller.
    CommittedFile("h200/host-cost.csv", ("python benchmarks/host_cost.py {}/host-cost.csv",), 60),
    CommittedFile(
        "h200/invariant-cost.csv", ("python benchmarks/invariant_cost.py {}/invariant-cost.csv",), 60
    ),
    CommittedFile(
        "h200/call-time.csv",
        (
            "python benchmarks/call_time.py {}/call-time.csv --peers flash2 sdpa-flash lightning-official "
            "fla-chunk --processes 1",
        ),
        240,
        needs=("flash_attn", "lightning_attn", "fla"),
    ),
    # What the papers measured, their faults included.
    CommittedFile("h200/paper-speed-published.csv", ("lbench speed paper --protocol paper",), 90),
    CommittedFile("h200/paper-memory-published.csv", ("lbench memory paper --protocol paper",), 180),
    CommittedFile("h200/fla-readme-speed.csv", ("lbench speed fla-readme --processes 1",), 120),
    CommittedFile(
        "h200/fla-readme-speed-published.csv",
        (f"lbench speed fla-readme --protocol paper --provider {_PUBLISHED_BY_FLA}",),
        180,
    ),
    CommittedFile(
        "h200/published-faults.csv",
        ("python benchmarks/published_faults.py {}/published-faults.csv",),
        220,
        needs=("flash_attn", "lightning_attn", "xformers"),
    ),
    # Whether the harness itself can be trusted.
    CommittedFile(
        "h200/timer-agreement.csv",
        ("python benchmarks/timer_agreement.py {}/timer-agreement.csv --time-limit-s 86400",),
        390,
        needs=("flash_attn", "cuda.bench", "cupti"),
        resumes=True,
    ),
    CommittedFile(
        "h200/remeasured.csv",
        (
            f"lbench speed paper --provider {_REMEASURED} --seq-len 512..16384 --out {{}}/first.csv",
            "lbench verify {}/first.csv --sample 60 --out {}/same.csv",
            "lbench verify {}/first.csv --sample 60 --gpus 1 --out {}/other.csv",
            "python benchmarks/remeasured.py {}/remeasured.csv {}/first.csv {}/same.csv {}/other.csv",
        ),
        600,
        needs=("flash_attn", "fla"),
        gpus=2,
    ),
    CommittedFile(
        "h200/order-of-shapes.csv",
        ("python benchmarks/order_of_shapes.py {}/order-of-shapes.csv --work {}/sweeps --beside",),
        900,
        needs=("flash_attn", "lightning_attn"),
        resumes=True,
    ),
    CommittedFile(
        "h200/placement.csv",
        ("python benchmarks/placement.py {}/placement.csv",),
        300,
        needs=("flash_attn", "lightning_attn"),
    ),
    CommittedFile(
        "h200/verdict-power.csv",
        ("python benchmarks/verdict_power.py {}/verdict-power.csv --device cuda --seconds 86400",),
        720,
        resumes=True,
    ),
    CommittedFile(
        "h200/profile/calls.csv",
        (
            f"{_PROFILE} lightning2",
            f"{_PROFILE} sdpa-cudnn",
            f"{_PROFILE} flash2",
            f"{_PROFILE} lightning-official",
            f"{_PROFILE} fla-chunk --case-s 200",
        ),
        900,
        needs=("ncu", "flash_attn", "lightning_attn", "fla"),
    ),
    CommittedFile(
        "h200/forward-variants.csv",
        ("python benchmarks/forward_variants.py {}/forward-variants.csv",),
        40,
        needs=("fla",),
        ours=False,
    ),
    # Two GPUs.
    CommittedFile("h200-x2/paper-speed.csv", (f"{_BOTH_SPEEDS} --gpus all",), 120, gpus=2),
    CommittedFile(
        "h200-x2/remeasured.csv",
        (
            f"{_BOTH_SPEEDS} --gpus 0 --out {{}}/one-gpu.csv",
            f"{_BOTH_SPEEDS} --gpus all --out {{}}/two-gpus.csv",
            "lbench verify {}/one-gpu.csv --sample 42 --gpus 1 --out {}/verify.csv",
            "python -m ray.scripts.scripts start --head --include-dashboard=false",
            "lbench speed paper --provider lightning2 --processes 1 --direction fwd --seq-len 1k..8k "
            "--executor ray --gpus 2 --out {}/ray.csv",
            "python -m ray.scripts.scripts stop",
            "python benchmarks/remeasured.py {}/remeasured.csv {}/one-gpu.csv {}/two-gpus.csv {}/verify.csv "
            "{}/ray.csv",
        ),
        570,
        needs=("flash_attn", "lightning_attn", "ray"),
        gpus=2,
    ),
    CommittedFile(
        "h200-x2/table1-train.csv",
        (
            f"lbench train table1 --model tnl-3b,llama-3b --recompute layers {_SHARED}",
            f"lbench train table1 --model tnl-1b,llama-1b --recompute none {_SHARED}",
        ),
        900,
        gpus=2,
    ),
    CommittedFile(
        "h200-x2/context-parallel-speed.csv",
        ("lbench speed context-parallel --ranks 1,2 --processes 1",),
        120,
        gpus=2,
    ),
    CommittedFile(
        "h200-x2/context-parallel.csv",
        ("python benchmarks/context_parallel.py {}/context-parallel.csv",),
        60,
        gpus=2,
    ),
    CommittedFile(
        "h200-x2/context-parallel-trace.csv",
        ("python benchmarks/context_parallel.py {}/context-parallel-trace.csv --trace",),
        40,
        gpus=2,
    ),
)

_ONE_THREAD = "OMP_NUM_THREADS=1"
_KEEP_MEMORY = f"MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000 {_ONE_THREAD} nice -n -20"


def _on_cpu(name: str, *options: str, before: str = "", module: bool = False) -> CommittedFile:
    """Return the file that a script writes, by default the one of its name; options for each time it runs."""
    script = name if module else name.removesuffix("_slots")
    out = f"{{}}/{name.replace('_', '-')}.csv"
    program = f"python -m benchmarks.{script}" if module else f"python benchmarks/{script}.py"
    commands = tuple(f"{program} {out} {option}".rstrip() for option in options or ("",))
    return CommittedFile(f"cpu/{Path(out).name}", commands, gpus=0, ours=False, before=before)


# Files of a CPU: `benchmarks.run_all` does not measure them, as the time of many depends on the machine.
CPU_FILES: tuple[CommittedFile, ...] = (
    _on_cpu(
        "verdict_power",
        "--device cpu --seconds 1500 --slower 100 --pairs 20 --processes 40",
        before=_KEEP_MEMORY,
    ),
    _on_cpu("verdict_simulation", module=True),
    _on_cpu("assumed_noise", module=True),
    _on_cpu("history_simulation", module=True),
    _on_cpu("gate_margins", "--seeds 10", before=_ONE_THREAD),
    _on_cpu("gate_cost", before="OMP_NUM_THREADS=2"),
    _on_cpu("busy_machine", "--loads 4", before="OMP_NUM_THREADS=2"),
    _on_cpu("fuzz_readers", "--count 10000 --seed 1", module=True),
    _on_cpu("torture", "--trials 12 --seed 2"),
    _on_cpu("torture_slots", "--trials 25 --kinds slots-parent,slots-worker", "--trials 15 --kinds ray-node"),
    _on_cpu("scale_simulation", before=_ONE_THREAD),
    _on_cpu("reading_speed"),
    _on_cpu("state_rounding"),
)
