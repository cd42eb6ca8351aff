"""The Typer application: the commands, the functions behind them and their one-line helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lightning_bench.cli.commands.calibrate import calibrate
from lightning_bench.cli.commands.ceilings import ceilings
from lightning_bench.cli.commands.compare import compare
from lightning_bench.cli.commands.env import env
from lightning_bench.cli.commands.export import export
from lightning_bench.cli.commands.generate import generate
from lightning_bench.cli.commands.gpus import gpus
from lightning_bench.cli.commands.history import history
from lightning_bench.cli.commands.merge import merge
from lightning_bench.cli.commands.profile import profile
from lightning_bench.cli.commands.providers import providers
from lightning_bench.cli.commands.report import report
from lightning_bench.cli.commands.suites import suites
from lightning_bench.cli.commands.sweep import sweep
from lightning_bench.cli.commands.train import train
from lightning_bench.cli.commands.verify import verify
from lightning_bench.cli.shared.help_text import LbenchGroup, command_with

app = typer.Typer(
    name="lbench",
    cls=LbenchGroup,
    help="Benchmarks of attention kernels that can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`lbench --install-completion` lets the shell complete suites, providers and values. "
    "Set LBENCH_TRACEBACK=1 to see the traceback of an error.",
)


def _version(value: bool) -> None:
    if value:
        from lightning_bench import __version__

        typer.echo(f"lbench {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that precede a command."""


def _add(name: str, function: Callable[..., None], help_text: str, *examples: str) -> None:
    app.command(name, help=help_text, cls=command_with(*examples))(function)


_add(
    "speed",
    sweep,
    "Measure how long each case takes, correctness first.",
    "lbench speed quick",
    "lbench speed paper --provider lightning2,flash2 --seq-len 512..32k --direction fwd",
    "lbench speed paper --device cuda:1 --dry-run",
    "lbench speed paper --gpus all",
    "lbench speed --kernel mine.py:attention --family softmax --against sdpa-flash",
)
_add(
    "memory",
    sweep,
    "Measure how much memory each case adds.",
    "lbench memory quick",
    "lbench memory paper --provider lightning2 --seq-len 4k..32k:4k",
)
_add(
    "check",
    sweep,
    "Check each case against fp64, without timing it.",
    "lbench check quick",
    "lbench check systems --dtype bf16 --sanitizer memcheck",
)
_add(
    "energy",
    sweep,
    "Measure how much energy a call takes, beyond the device at rest.",
    "lbench energy paper --direction fwd --seq-len 8k,32k",
    "lbench energy paper --provider lightning2,flash2 --dry-run",
)
_add(
    "train",
    train,
    "Train whole models: tokens per second, memory, time per phase.",
    "lbench train quick",
    "lbench train table1 --model tnl-0.4b,llama-0.4b --seq-len 1k..64k",
    "lbench train table1 --provider +flash2 --dry-run",
)
_add(
    "generate",
    generate,
    "Have whole models continue prompts: prefill, decoding, memory.",
    "lbench generate quick",
    "lbench generate generate --model tnl-7b,llama-7b --batch 1,16,64",
    "lbench generate --provider +flash2 --dry-run",
)
_add(
    "report",
    report,
    "Make the papers' tables, plots and a page from result CSVs.",
    "lbench report",
    "lbench report results/h200 --metric ms --provider lightning2,fla-chunk,flash2",
    "lbench report results/h200 --out report --format html,csv,png",
)
_add(
    "export",
    export,
    "Write rows as JSON, Parquet, or for PyTorch's and Bencher's databases.",
    "lbench export results/h200 --to json --out rows.json",
    "lbench export results/h200 --to bencher --metric speed",
)
_add(
    "compare",
    compare,
    "Say whether anything is slower, larger or broken, for CI.",
    "lbench compare base.csv head.csv",
    "lbench compare nvbench-old.json nvbench-new.json",
    "lbench compare --ref main quick --provider lightning2-torch",
    "lbench compare results/h200/paper-speed.csv --provider lightning2 --against fla-chunk",
)
_add(
    "calibrate",
    calibrate,
    "Measure this machine against itself: the noise that compare allows for.",
    "lbench calibrate quick",
    "lbench calibrate paper --provider lightning2 --pairs 32",
)
_add(
    "verify",
    verify,
    "Measure a sample of recorded times again: do they hold on this machine?",
    "lbench verify results --sample 10",
    "lbench verify results --at-least 95% --out again.csv",
)
_add(
    "history",
    history,
    "Show one cell's figure over commits or dates and mark changes.",
    "lbench history --case 'lightning2/fwd/b4-h32-n8192-d128-*'",
    "lbench history results/h200 --committed --case 'lightning2/fwd/b4-h32-n8192-d128-*'",
    "lbench history results --figure peak_mib --by day --plot history.svg",
)
_add(
    "merge",
    merge,
    "Make one file of those of a sweep's shards.",
    "lbench merge results/h200/paper-speed-shard*of4.csv",
)
_add(
    "suites",
    suites,
    "Show the bundled suites, or what one would run.",
    "lbench suites",
    "lbench suites paper --json",
)
_add(
    "providers",
    providers,
    "Show the providers, and why one cannot run here.",
    "lbench providers --here",
    "lbench providers --family softmax",
)
_add(
    "env",
    env,
    "Show this machine as every row records it.",
    "lbench env",
    "lbench env --device cpu --json",
)
_add(
    "gpus",
    gpus,
    "Show the GPUs here, and who uses them.",
    "lbench gpus",
    "lbench gpus --json",
)
_add(
    "ceilings",
    ceilings,
    "Measure what this device reaches at its best, once.",
    "lbench ceilings",
    "lbench ceilings --device cuda:1 --fresh",
)
_add(
    "profile",
    profile,
    "Show where the time and the memory of one case go, and why.",
    "lbench profile lightning2 flash2 --seq-len 16384",
    "lbench profile lightning2-torch --device cpu --trace trace.json",
)
