"""A plain function of a file as a provider: what it is called with, and what is said if it does not fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.case import FAMILIES, Shape
from lightning_bench.errors import UsageError
from lightning_bench.families import definition_of
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.providers import canonical_spec, declared_provider, get_provider
from lightning_bench.providers.registry.checked import Unfit
from lightning_bench.providers.registry.functions import bind, function_provider
from lightning_bench.providers.registry.packages import installed_version
from lightning_bench.providers.registry.specs import with_family
from lightning_bench.variant import Variant

pytestmark = pytest.mark.usefixtures("forked_workers")

SOURCE = """\
from lightning_bench.providers import Provider

def attn(q, k, v, scale=None):
    from torch.nn.functional import scaled_dot_product_attention
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)

class Layer:
    def __call__(self, q, k, v, slopes):
        return v

layer = Layer()

class Mine(Provider):
    name, label, family, package = "mine", "Mine", "softmax", "torch"
    def build(self, inputs):
        return lambda: inputs.v

def _helper(q):
    return q
"""
BUILTIN = """\
import torch

builtin = torch.nn.functional.scaled_dot_product_attention
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    return file


def make(parameters: str) -> Callable[..., dict[str, Any]]:
    """Return a function of these parameters that returns what it got, by parameter."""
    scope: dict[str, Any] = {}
    exec(f"def f({parameters}): return dict(locals())", scope)
    function: Callable[..., dict[str, Any]] = scope["f"]
    return function


def call(parameters: str, family: str) -> dict[str, Any]:
    """Call a function of these parameters with the names of the inputs, as `build` does with tensors."""
    function = make(parameters)
    bound = bind(function, "f", family)
    return function(*bound.by_position, **bound.by_keyword)


@pytest.mark.parametrize("name", ["attn", "builtin"])
def test_a_function_is_a_provider(path: Path, name: str) -> None:
    if name == "builtin":
        path.write_text(BUILTIN)
    for found in (get_provider, declared_provider):
        provider = found(f"{path}:{name}@softmax")
        assert (provider.name, provider.label, provider.family) == (name, f"{name} (mine.py)", "softmax")
        assert (provider.layout, provider.devices, provider.dtypes) == (
            "bhnd",
            ("cuda", "cpu"),
            ("fp32", "fp16", "bf16"),
        )
        assert found(f"{path}:{name}@softmax@bnhd").layout == "bnhd"


def test_its_version_is_a_digest_of_its_sources(path: Path) -> None:
    version = declared_provider(f"{path}:attn@softmax").version()
    assert version.startswith(installed_version("torch") + "+")
    assert version == get_provider(f"{path}:Mine").version()
    other = path.with_name("other.py")
    other.write_text(SOURCE + "# edited\n")
    assert get_provider(f"{other}:attn@softmax").version() != version


def test_an_object_that_can_be_called_is_a_function(path: Path) -> None:
    inputs = InputSet(Shape(1, 2, 8, 4, 4, "fp32", "cpu"), seed=1).of("linear_decay").inputs("bhnd")
    assert get_provider(f"{path}:layer@linear_decay").build(inputs)() is inputs.v


def test_the_call_computes_and_autograd_differentiates_it(path: Path) -> None:
    inputs = InputSet(Shape(1, 2, 8, 4, 4, "fp32", "cpu"), seed=1).inputs("bhnd")
    o = get_provider(f"{path}:attn@softmax").build(inputs)()
    expected = torch.nn.functional.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, is_causal=True)
    assert torch.equal(o, expected)
    assert [x.shape for x in torch.autograd.grad(o.sum(), (inputs.q, inputs.k, inputs.v))] == [
        (1, 2, 8, 4)
    ] * 3


def test_one_without_a_graph_runs_forward_only() -> None:
    inputs = InputSet(Shape(1, 2, 8, 4, 4, "fp32", "cpu"), seed=1)
    mine = function_provider(lambda q, k, v: v.detach() + 1, "mine", "softmax", "")
    assert torch.equal(direction_call(mine, inputs, "fwd").fn()["o"], inputs.v + 1)
    says = r"cannot differentiate mine: .*; measure --direction fwd only, or give it a backward pass"
    with pytest.raises(CaseEnded, match=says) as ended:
        direction_call(mine, inputs, "bwd")
    assert ended.value.status == "unsupported"
    both = direction_call(mine, inputs, "fwd_bwd")
    with pytest.raises(CaseEnded, match=says):
        both.fn()


def test_one_that_computes_not_all_gradients_is_wrong() -> None:
    inputs = InputSet(Shape(1, 2, 8, 4, 4, "fp32", "cpu"), seed=1)
    mine = function_provider(lambda q, k, v: v + k.detach() * q, "mine", "softmax", "")
    call = direction_call(mine, inputs, "bwd")
    with pytest.raises(CaseEnded, match=r"no way from the output of mine to k: no such gradient") as ended:
        call.fn()
    assert ended.value.status == "wrong"


@pytest.mark.parametrize(
    ("parameters", "family", "got"),
    [
        ("q, k, v", "softmax", {"q": "q", "k": "k", "v": "v"}),
        ("query, key, value", "softmax", {"query": "q", "key": "k", "value": "v"}),
        ("v, q, k", "softmax", {"v": "v", "q": "q", "k": "k"}),
        ("q, k, v, causal=True", "softmax", {"q": "q", "k": "k", "v": "v", "causal": True}),
        ("q, k, v, s", "linear_decay", {"q": "q", "k": "k", "v": "v", "s": "slopes"}),
        ("q, k, v, a=1, slopes=None", "linear_decay",
         {"q": "q", "k": "k", "v": "v", "a": 1, "slopes": "slopes"}),
        ("q, k, v, s=None, *, scale=1", "linear_decay",
         {"q": "q", "k": "k", "v": "v", "s": "slopes", "scale": 1}),
        ("slopes, v, k, q, s=None", "retention",
         {"q": "q", "k": "k", "v": "v", "slopes": "slopes", "s": None}),
        ("q, k, v, s=None", "linear", {"q": "q", "k": "k", "v": "v", "s": None}),
        ("q, k, v, *, g", "gla", {"q": "q", "k": "k", "v": "v", "g": "g"}),
        ("*args", "mamba2", {"args": ("q", "k", "v", "g")}),
        ("q, *args", "gla", {"q": "q", "args": ("k", "v", "g")}),
        ("q, k, v, **more", "kda", {"q": "q", "k": "k", "v": "v", "more": {"beta": "beta", "g": "g"}}),
        ("a, b, /, v, *, k", "softmax", None),
        ("a, b, /, v", "softmax", {"a": "q", "b": "k", "v": "v"}),
        ("x", "norm", {"x": "v"}),
        ("q, codebook, codes, v", "vq", {"q": "q", "codebook": "codebook", "codes": "codes", "v": "v"}),
    ],
)  # fmt: skip
def test_inputs_by_name_then_by_position(parameters: str, family: str, got: dict[str, Any] | None) -> None:
    if got is None:
        with pytest.raises(Unfit):
            call(parameters, family)
    else:
        assert call(parameters, family) == got


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40)
@given(data=st.data())
def test_each_input_arrives_once_whatever_the_parameters(family: str, data: st.DataObject) -> None:
    """Named parameters get their inputs in any order; those with other names the rest, in order."""
    inputs = definition_of(family).arguments
    order = data.draw(st.permutations(inputs))
    named = data.draw(st.lists(st.sampled_from(inputs), unique=True))
    extras = data.draw(st.integers(0, 2))
    parameters = [name if name in named else f"x{index}" for index, name in enumerate(order)]
    defaults = [f"default{index}=None" for index in range(extras)]
    got = call(", ".join([*parameters, *defaults]), family)
    assert {got[name] for name in parameters} == set(inputs)
    assert all(got[name] == name for name in named)
    rest = [got[name] for name in parameters if name not in named]
    assert rest == [name for name in inputs if name not in named]
    assert all(got[f"default{index}"] is None for index in range(extras))


@pytest.mark.parametrize(
    ("parameters", "family", "said"),
    [
        ("q, k, v", "linear_decay", "whose inputs are q, k, v, slopes: no parameter takes slopes;"),
        ("q, k, v, decay=None", "linear_decay", "no parameter takes slopes;"),
        ("q, k, v, mask", "softmax", "whose inputs are q, k, v: nothing is given for mask;"),
        ("q, k, v, *, mask", "softmax", "nothing is given for mask;"),
        ("", "norm", "no parameter takes v;"),
    ],
)
def test_parameters_that_do_not_fit(parameters: str, family: str, said: str) -> None:
    with pytest.raises(Unfit) as caught:
        bind(make(parameters), "f", family)
    assert str(caught.value).startswith(f"f does not fit family {family}, ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("attn", "attn is a plain function, which does not say what it computes; give --family with --kernel "
         "or --provider, or put the family behind its name, as in attn@softmax; families are linear_decay,"),
        ("attn@", "attn is a plain function"),
        ("attn@soft", "attn has family 'soft', which is not known; did you mean softmax or softmax_full?"),
        ("attn@softmax@bdn", "attn has layout 'bdn'; layouts are bhnd, bnhd"),
        ("layer@softmax", "layer does not fit family softmax, whose inputs are q, k, v: nothing is given"),
        ("Mine@linear", "Mine declares family softmax, and linear was given: leave it out"),
        ("Mine@softmax@bnhd", "Mine declares layout bhnd, and bnhd was given: leave it out"),
        ("Layer@softmax", "Layer is a class, and neither a subclass nor an instance of lightning_bench."
         "providers.Provider; an instance of it, which can be called, will do; give path/to/"),
        ("nothing@softmax", "no nothing; the file has Mine, attn; give path/to/file.py:NAME"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(path: Path, name: str, said: str) -> None:
    for found in (get_provider, declared_provider):
        with pytest.raises(UsageError) as caught:
            found(f"{path}:{name}")
        assert str(caught.value).startswith(f"provider file {path}: {said}")


def test_a_provider_class_may_be_given_its_own_family(path: Path) -> None:
    assert declared_provider(f"{path}:Mine@softmax").name == "mine"
    assert canonical_spec(f"{path}:Mine@softmax") == f"{path.resolve()}:Mine@softmax"


def test_a_family_is_given_to_files_without_one() -> None:
    specs = ["flash2", "a.py:f", "a.py:f@gla", "b/c.py:g@gla@bnhd"]
    given = [
        with_family(spec, "softmax", layout) for spec, layout in itertools.product(specs, (None, "bnhd"))
    ]
    assert given == [
        "flash2",
        "flash2",
        "a.py:f@softmax",
        "a.py:f@softmax@bnhd",
        *["a.py:f@gla"] * 2,
        *["b/c.py:g@gla@bnhd"] * 2,
    ]
    assert [with_family(spec, None) for spec in specs] == specs


def test_a_function_with_cu_seqlens_takes_packed_documents() -> None:
    packed = Shape(1, 2, 8, 4, 4, "fp32", "cpu", Variant(documents=(5, 3)))
    plain = Shape(1, 2, 8, 4, 4, "fp32", "cpu")
    takes = function_provider(lambda q, k, v, s, cu_seqlens=None: (v, cu_seqlens), "mine", "linear_decay", "")
    assert takes.unsupported(packed, "fwd") is None
    with torch.no_grad():
        assert takes.build(InputSet(packed, seed=1).inputs("bhnd"))()[1].tolist() == [0, 5, 8]
        assert takes.build(InputSet(plain, seed=1).inputs("bhnd"))()[1] is None
    lacks = function_provider(lambda q, k, v, s: v, "mine", "linear_decay", "")
    assert lacks.unsupported(packed, "fwd") == "mine takes no packed documents (cu_seqlens)"
    assert lacks.unsupported(plain, "fwd") is None
