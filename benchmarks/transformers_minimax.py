"""Tokens per second of a MiniMax of Hugging Face Transformers, with its lightning attention and with ours.

Run on a GPU with transformers 5.24 or newer, in the repository root:

    python benchmarks/transformers_minimax.py results/h200/transformers-minimax.csv

The model has MiniMax-01's layers (width 6144, 64 heads of 128, one softmax layer to seven lightning ones)
and random weights in bf16, but eight layers instead of 80 and two experts, both of which every token takes.
It reads prompts into a new cache, then takes tokens one by one, which are given. Each is a call of the model
as Transformers has it, without torch.compile: Python and launches count. The two models share all weights,
and take turns. Times are those of the wall clock between synchronisations.

The CSV has a row for each phase, batch, length and kind of layers: tokens per second by the median, its ratio
to Transformers' own, peak memory above the weights, and how far the logits of the last token are from those
of the same model in fp32 (relative L2 error; own layers, same tokens).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from rows import kernels_version, out_path, write_rows
from torch import Tensor

from lightning_bench.machine import harness_commit
from lightning_kernels.integrations.transformers_minimax import use_lightning_kernels

WORKLOADS = ((1, 512), (1, 2048), (1, 8192), (8, 2048))
"""Batch and length of the prompts; 512 tokens are compared with fp32 too."""
STEPS, REPEATS = 16, 5
SIZES: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_hidden_layers": 8,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 2,
    "num_experts_per_tok": 2,
    "block_size": 256,
    "max_position_embeddings": 16384,
    # At 0.02, as for narrower models, eight layers make an error of half of the logits of bf16's rounding.
    "initializer_range": 0.006,
}
OURS, OWN = "lightning_kernels", "transformers"


def build(device: str, sizes: dict[str, Any]) -> Any:
    """Return a random model whose first layer is softmax: Transformers counts the tokens of a cache by it."""
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    layers = sizes["num_hidden_layers"]
    kinds = ["full_attention", *["linear_attention"] * (layers - 1)]
    torch.manual_seed(0)
    with torch.device(device):
        model = MiniMaxForCausalLM(MiniMaxConfig(layer_types=kinds, **sizes))
    return model.eval().requires_grad_(False)


def with_ours(model: Any) -> Any:
    """Return the model with our layers and the same weights."""
    other = copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())})
    use_lightning_kernels(other)
    return other


@torch.no_grad()
def generation(
    model: Any, prompt: Tensor, tokens: Tensor, now: Callable[[], float]
) -> tuple[list[float], Tensor]:
    """Read prompts [b, n], then the tokens [b, steps] one by one.

    Returns:
        the seconds of both, and the last logits.
    """
    from transformers.models.minimax.modeling_minimax import MiniMaxCache

    cache, begin = MiniMaxCache(), now()
    model(prompt, cache=cache, use_cache=True, logits_to_keep=1)
    between = now()
    for token in tokens.split(1, dim=1):
        logits = model(token, cache=cache, use_cache=True).logits
    return [between - begin, now() - between], logits[:, -1]


def measure(
    device: str, sizes: dict[str, Any], workloads: Sequence[tuple[int, int]]
) -> Iterator[dict[str, object]]:
    """Yield the rows of all workloads."""
    cuda = device == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    exact = build(device, sizes)
    own = copy.deepcopy(exact).to(torch.bfloat16) if cuda else exact
    models = {OWN: own, OURS: with_ours(own)}
    for batch, n in workloads:
        ids = torch.randint(3, sizes["vocab_size"], (batch, n + STEPS), device=device)
        prompt, tokens = ids[:, :n], ids[:, n:]
        right = generation(exact, prompt, tokens, now)[1].double() if n == workloads[0][1] else None
        seconds: dict[str, list[list[float]]] = {name: [] for name in models}
        peaks, errors = {}, {}
        for repeat in range(REPEATS + 1):
            for name, model in models.items():
                if cuda:
                    before = torch.cuda.memory_allocated()
                    torch.cuda.reset_peak_memory_stats()
                took, logits = generation(model, prompt, tokens, now)
                if cuda:
                    peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
                if right is not None:
                    errors[name] = float((logits.double() - right).norm() / right.norm())
                if repeat:  # the first compiles
                    seconds[name].append(took)
        for index, (phase, count) in enumerate((("prefill", batch * n), ("decode", batch * STEPS))):
            rates = {
                name: count / float(np.median([each[index] for each in all_]))
                for name, all_ in seconds.items()
            }
            for name, rate in rates.items():
                yield {
                    "phase": phase,
                    "batch": batch,
                    "seq_len": n,
                    "layers": name,
                    "tokens_per_s": f"{rate:.6g}",
                    "ratio_to_transformers": f"{rate / rates[OWN]:.4g}",
                    "slowest": f"{count / max(each[index] for each in seconds[name]):.6g}",
                    "fastest": f"{count / min(each[index] for each in seconds[name]):.6g}",
                    "peak_mib": f"{peaks[name]:.1f}" if name in peaks else "",
                    "error_to_fp32": f"{errors[name]:.3g}" if name in errors else "",
                    "device": torch.cuda.get_device_name() if cuda else "cpu",
                    "torch": torch.__version__,
                    "transformers": version("transformers"),
                    "provider_version": kernels_version(),
                    "harness_commit": harness_commit(),
                }


def main() -> None:
    """Measure, and write the rows measured so far after each workload."""
    path = out_path(__doc__)
    rows: list[dict[str, object]] = []
    for row in measure("cuda", SIZES, WORKLOADS):
        rows.append(row)
        write_rows(path, rows)
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
