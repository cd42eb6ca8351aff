"""A small language model learns alike with the kernel and with the plain form.

The model is TransNormerLLM (arXiv 2307.14995) in small: two layers of normalised linear attention without a
softmax, SiLU on q and k, an output gate, a gated linear unit, and slopes that fall with the layer, so that
the last one hardly decays. It reads characters of ``lightning_bench/models/alice.txt``: chapter I of Alice's
Adventures in Wonderland by Lewis Carroll (1865), up to "finished it off"; the text is in the public domain.

Each run is made twice from one seed and sees the same batches. Nothing but the attention differs, so the
curves of the loss differ by rounding alone, which training amplifies from step to step.
"""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

import lightning_kernels as lk
from tests.support.kernel_cases import make_inputs, oracle, relative_l2, run
from tests.support.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

TEXT = (ROOT / "lightning_bench/models/alice.txt").read_text()


@dataclass(frozen=True)
class Size:
    """One training run; the attention sees [batch, heads, seq_len, head_dim] in `dtype`."""

    batch: int
    heads: int
    seq_len: int
    head_dim: int
    steps: int
    rate: float
    device: str
    dtype: torch.dtype
    layers: int = 2

    @property
    def width(self):
        return self.heads * self.head_dim


def norm(x):
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6)


def layer_slopes(size, layer):
    """Return the slopes [heads, 1, 1] of one layer."""
    slopes = lk.build_slope_tensor(size.heads) * (1 - layer / (size.layers - 1) + 1e-5)
    return slopes.to(size.device)


class Layer(torch.nn.Module):
    def __init__(self, size, layer):
        super().__init__()
        self.size = size
        self.slopes = layer_slopes(size, layer)
        width = size.width
        self.qkvg = torch.nn.Linear(width, 4 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)
        self.up = torch.nn.Linear(width, 4 * width, bias=False)
        self.down = torch.nn.Linear(2 * width, width, bias=False)

    def forward(self, x, attention):
        q, k, v, gate = self.qkvg(norm(x)).chunk(4, -1)
        heads = (y.unflatten(-1, (self.size.heads, -1)) for y in (functional.silu(q), functional.silu(k), v))
        q, k, v = (
            y.to(self.size.dtype).transpose(1, 2) for y in heads
        )  # [b, h, n, d], [b, n, h, d] in memory
        o = attention(q, k, v, self.slopes).to(x.dtype).transpose(1, 2).flatten(2)
        x = x + self.out(norm(o) * torch.sigmoid(gate))
        left, right = self.up(norm(x)).chunk(2, -1)
        return x + self.down(left * right)


class Model(torch.nn.Module):
    def __init__(self, size, characters):
        super().__init__()
        self.embed = torch.nn.Embedding(characters, size.width)
        self.layers = torch.nn.ModuleList(Layer(size, layer) for layer in range(size.layers))
        self.head = torch.nn.Linear(size.width, characters, bias=False)

    def forward(self, tokens, attention):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, attention)
        return self.head(norm(x))


def train(size, attention):
    """Return the loss of each step, in nats a character."""
    characters = sorted(set(TEXT))
    text = torch.tensor([characters.index(c) for c in TEXT])
    torch.manual_seed(0)
    model = Model(size, len(characters)).to(size.device)
    optimizer = torch.optim.Adam(model.parameters(), size.rate)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(size.steps):
        starts = torch.randint(len(text) - size.seq_len, (size.batch,), generator=generator)
        rows = text[starts[:, None] + torch.arange(size.seq_len + 1)].to(size.device)
        logits = model(rows[:, :-1], attention)
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).double().cpu()


def check(size, *, budget, falls_below, apart):
    """Train with both; `apart` bounds how far the losses differ, in nats, a quarter of it the first half."""
    for layer in range(size.layers):
        inputs = make_inputs(
            size.batch, size.heads, size.seq_len, size.head_dim, size.head_dim, size.dtype, device=size.device
        )
        slopes = layer_slopes(size, layer)
        got = run(lk.lightning_attn2_torch, *inputs, slopes)
        for a, b in zip(got, oracle(*inputs, slopes), strict=True):
            assert relative_l2(a, b) <= budget
    kernel, plain = train(size, lk.lightning_attn2), train(size, lk.lightning_attn2_torch)
    assert kernel.isfinite().all()
    assert float(kernel[:3].mean()) > 3.3  # of ln(58) = 4.1 that a model without knowledge pays
    assert float(kernel[-5:].mean()) < falls_below
    difference = (kernel - plain).abs()
    assert float(difference[: size.steps // 2].max()) <= apart / 4
    assert float(difference.max()) <= apart


@pytest.fixture
def one_thread():
    """Threads that wait for each other make the tiny operations of the interpreter ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The bounds. In fp32 the interpreted kernel was seen 3e-6 from the plain form at the first size, and the
# plain form 5e-7 from itself with its sums in another order at the second; a GPU adds gradients of the
# embedding that are summed in any order. In bf16 the plain form was seen 3.5e-3 from itself with state and
# scores rounded to bf16 as the kernel rounds them, 7e-4 in the first half. Within ten steps, no decay is 1e-2
# off, a lost gradient of k as much, and slopes a tenth too steep 5e-4 to 3e-3.
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the larger size")
@pytest.mark.usefixtures("one_thread")
def test_curves_agree_in_the_interpreter():
    size = Size(1, 2, 72, 16, 24, 1e-2, "cpu", torch.float32)
    check(size, budget=2e-6, falls_below=2.9, apart=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "budget", "apart"), [(torch.float32, 2e-6, 1e-4), (torch.bfloat16, 4e-3, 2e-2)]
)
def test_curves_agree_on_a_gpu(dtype, budget, apart):
    size = Size(8, 4, 256, 64, 200, 1e-3, "cuda", dtype)
    check(size, budget=budget, falls_below=1.0, apart=apart)
