"""Training on two ranks, by gloo on a CPU: the steps of one process that has both texts, and whole cases."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from lightning_bench.case import Case, Shape
from lightning_bench.machine.gpu import Gpu
from lightning_bench.machine.place_lock import hold, holder
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.lap_clock import CpuLapClock
from lightning_bench.measure.job import CaseEnded, Job, Outcome
from lightning_bench.measure.outcomes import is_oom
from lightning_bench.measure.ranks.rank import Rank, RankRequest, join
from lightning_bench.measure.ranks.team import _await_ready, _failure, _lock
from lightning_bench.measure.session import Session
from lightning_bench.measure.training.trainer import Trainer, follow_steps
from lightning_bench.model_run import ModelRun, Parallel
from lightning_bench.models.byte_text import ByteText
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import get_provider
from lightning_bench.suite import Limits

STEPS = 2


def shape(model: str, parallel: Parallel) -> Shape:
    size, run = MODELS[model], ModelRun(model, 64, parallel=parallel)
    return Shape(2, size.heads, 32, size.head_dim, size.head_dim, "fp32", "cpu", model_run=run, ranks=2)


def in_one_process(of: Shape, provider: object, ranks: int) -> list[torch.Tensor]:
    """Return the weights after steps on the texts of all ranks."""
    alone = Trainer(replace(of, model_run=ModelRun(of.model_run.model, 64), ranks=0), provider, 5)  # type: ignore[arg-type]
    texts = [ByteText("cpu", 5 + rank) for rank in range(ranks)]
    for _ in range(STEPS):
        losses = [alone.model(*text.batch(of.batch, of.seq_len)) for text in texts]
        torch.stack(losses).mean().backward()
        alone.optimizer.step()
        alone.optimizer.zero_grad()
    return [weight.detach() for weight in alone.model.parameters()]


def as_ranks(number: int, folder: Path) -> None:
    """Be one of two ranks: train in each way, and compare the weights with those of one process."""
    torch.set_num_threads(1)
    rank = Rank(number, 2)
    join(rank, "cpu", folder)
    ways: dict[str, tuple[str, tuple[Parallel, ...]]] = {
        "lightning2-torch": ("tnl-tiny", ("ddp", "fsdp2")),
        "sdpa-math": ("llama-tiny", ("fsdp2",)),
    }
    for name, (model, parallels) in ways.items():
        provider = get_provider(name)
        provider.load()
        for parallel in parallels:
            of = shape(model, parallel)
            if number:
                request = RankRequest((Case(of, name, "fwd_bwd"),), 5, rank, folder, follow_steps)
                follow_steps(request, {name: provider})
                continue
            trainer = Trainer(of, provider, 5, rank)
            trainer.units(STEPS, CpuLapClock())
            expected = in_one_process(of, provider, 2)
            if parallel == "ddp":
                for found, wanted in zip(trainer.model.parameters(), expected, strict=True):
                    torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-6)
            else:  # this rank has the first half of each weight's rows; of θ it has all
                weights = list(trainer.model.parameters())
                assert [isinstance(x, DTensor) for x in weights].count(False) == len(trainer.replicated)
                for found, wanted in zip(weights, expected, strict=True):
                    mine = found.to_local() if isinstance(found, DTensor) else found
                    torch.testing.assert_close(mine.detach(), wanted[: len(mine)], rtol=1e-4, atol=1e-6)
                assert trainer.held_bytes < 0.55 * 3 * 4 * sum(x.numel() for x in expected)
            assert not trainer.apart()
    unlike = [torch.full((2,), float(number))]
    assert rank.apart(unlike)
    assert not rank.apart([torch.ones(3)])
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # of Python from 3.12 on
def test_two_ranks_take_the_steps_of_one_process_with_both_texts(tmp_path: Path) -> None:
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            code = 0
            try:
                as_ranks(number, tmp_path)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_a_case_runs_on_ranks_of_its_own(session: Session) -> None:
    limits = Limits(sample_limit_s=0.1, min_samples=6, max_samples=6, ci_percent=50.0)
    outcomes: list[Outcome] = []
    case = Case(shape("llama-tiny", "fsdp2"), "sdpa-math", "fwd_bwd")
    run_job(session, Job((case,), "train", "lbench", limits), lambda *_: None, outcomes.append)
    (outcome,) = outcomes
    assert not distributed.is_initialized()
    assert outcome.status in ("ok", "unstable"), outcome.reason
    f = outcome.figures
    assert f.tokens_per_s == pytest.approx(64e3 / (f.median_ms or 1))  # of one rank
    assert f.loss is not None
    assert f.loss < (f.first_loss or 0)
    assert "it left" not in outcome.reason


def test_what_another_rank_has_raised_is_the_reason(tmp_path: Path) -> None:
    ended = subprocess.Popen(["false"])
    ended.wait()
    with pytest.raises(RuntimeError, match="a rank has ended before it was ready"):
        _await_ready(tmp_path, {1: ended})
    assert _failure(tmp_path, {1: ended}, orderly=True) == "rank 1 ended with exit code 1"
    (tmp_path / "failed1").write_text("MemoryError: out of memory on this one")
    assert _failure(tmp_path, {1: ended}, orderly=True) == "rank 1: MemoryError: out of memory on this one"
    assert is_oom(RuntimeError(_failure(tmp_path, {1: ended}, orderly=True)))


def test_a_gpu_that_another_sweep_has_is_named() -> None:
    gpus = [Gpu("NVIDIA H200", "9.0", "570.1", f"GPU-{number}", f"GPU-{number}") for number in (1, 2)]
    with hold({"GPU-2": "it"}), ExitStack() as stack, pytest.raises(CaseEnded) as caught:
        _lock(gpus, stack)
    assert caught.value.status == "unavailable"
    assert f"the GPU of rank 2 is in use by pid {os.getpid()}" in caught.value.reason
    with ExitStack() as stack:
        _lock(gpus, stack)
        assert holder("GPU-1") == holder("GPU-2") == os.getpid()
    assert holder("GPU-1") is None
