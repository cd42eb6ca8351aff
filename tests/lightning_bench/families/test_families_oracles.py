"""Each family's oracle against its paper's own form, the cases that it reduces to, and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_bench.case import FAMILIES, Family, Shape
from lightning_bench.families import DEFINED, Problem, definition_of
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import solve
from lightning_bench.providers import get_provider
from lightning_bench.providers.registry.base import Inputs
from tests.lightning_bench.families.test_families_layers import DEFINITIONS
from tests.lightning_bench.families.test_families_serving import SERVED

FORMS: dict[Family, str] = {
    "softmax_full": "sdpa-math-full",
    "retention": "retention-torch",
    "gla": "gla-torch",
    "based": "based-torch",
    "rwkv6": "rwkv6-torch",
    "abc": "abc-torch",
    "mamba2": "mamba2-torch",
    "gated_delta": "gated-delta-torch",
    "kda": "kda-torch",
}
"""A form that owes the oracle nothing: token by token or all pairs at once, where oracles go in blocks."""
GATED = [family for family in FORMS if len(definition_of(family).inputs) > 3]


def problem(family: Family, n: int, d: int = 8, e: int = 6, seed: int = 0) -> Problem:
    """Realistic inputs in fp64, [pairs, n, ...], two pairs: two heads of one sequence."""
    inputs = InputSet(Shape(1, 2, n, d, e, "fp32", "cpu"), seed).of(family)
    specs = definition_of(family).inputs
    more = {name: (x if "b" not in specs[name].axes else x[0]).double() for name, x in inputs.more.items()}
    q, k, v, do = (x[0].double() for x in (inputs.q, inputs.k, inputs.v, inputs.do))
    return Problem(q, k, v, do, inputs.decay.double(), more)


def form(family: Family, p: Problem) -> dict[str, Tensor]:
    """Output and gradients by autograd through the provider of that form, in fp64."""
    defined = definition_of(family)
    leaves = {name: p[name].clone().requires_grad_() for name in defined.gradients}

    def given(name: str) -> Tensor:
        x = leaves.get(name, p[name])
        return x[None] if "b" in defined.inputs[name].axes else x

    more = {name: given(name) for name in p.more}
    inputs = Inputs(given("q"), given("k"), given("v"), p.decay, more)
    o = get_provider(FORMS[family]).build(inputs)()[0]
    grads = torch.autograd.grad(
        o,
        list(leaves.values()),
        p.do,
        materialize_grads=True,  # RWKV-6 at n = 1 has no use for w
    )
    return {"o": o.detach(), **{f"d{n}": g for n, g in zip(leaves, grads, strict=True)}}


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], limit: float = 1e-11) -> None:
    assert list(got) == list(wanted)
    for name, tensor in got.items():
        assert tensor.shape == wanted[name].shape
        # At n = 1 gradients of decays are zero, hence the second term.
        assert float((tensor - wanted[name]).norm()) <= limit * float(wanted[name].norm() + 1.0), name


def test_every_family_is_defined_and_has_another_form() -> None:
    assert tuple(DEFINED) == FAMILIES, "DEFINED and case.Family differ: same names, same order"
    # The first three are compared in tests/lightning_bench/measure/test_measure_oracle.py.
    compared = {"linear_decay", "linear", "softmax"} | set(FORMS) | set(DEFINITIONS) | set(SERVED)
    assert compared <= set(FAMILIES)
    missing = sorted(set(FAMILIES) - compared)
    assert not missing, f"nothing checks the oracles of {missing}: name a provider of each in FORMS above"
    for family in FAMILIES:
        assert definition_of(family).equation
        assert definition_of(family).paper


@pytest.mark.parametrize("family", FORMS)
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 100, 257])
def test_the_oracle_is_the_papers_form(family: Family, n: int) -> None:
    p = problem(family, n, seed=n)
    assert_close(solve(family, p, gradients=True), form(family, p))


@pytest.mark.parametrize("family", FORMS)
def test_pairs_in_parts_are_the_whole(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(family, 70)
    whole = solve(family, p, gradients=True)
    monkeypatch.setattr("lightning_bench.families.definition._ELEMENTS_AT_ONCE", 1)
    assert_close(solve(family, p, gradients=True), whole, 1e-14)
    assert_close(solve(family, p, gradients=False), {"o": whole["o"]}, 1e-14)


@pytest.mark.parametrize("family", GATED)
def test_gradients_of_gates_are_those_of_the_output(family: Family) -> None:
    """By central differences along a random direction of each input that has a gradient."""
    p = problem(family, 40)
    grads = solve(family, p, gradients=True)
    for name in definition_of(family).gradients:
        way = torch.randn(p[name].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def loss(step: float, name: str = name, way: Tensor = way) -> float:
            moved = p.replaced({name: p[name] + step * way})
            return float((solve(family, moved, gradients=False)["o"] * p.do).sum())

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert slope == pytest.approx(float((grads[f"d{name}"] * way).sum()), rel=1e-6), name


def constant(p: Problem, name: str, value: float) -> Problem:
    return p.replaced({name: torch.full_like(p[name], value)})


def scaled(tensors: Tensor, d: int) -> Tensor:
    return tensors * d**-0.5


@pytest.mark.parametrize("family", ["gla", "mamba2", "kda", "gated_delta"])
def test_gates_of_one_decay_are_linear_attention_with_it(family: Family) -> None:
    p = constant(problem(family, 90), "g", -0.25)
    if "beta" in p.more:  # nothing recalled: then the rule adds β k v, here the value itself
        p = p.replaced({"k": torch.eye(8, dtype=torch.float64).expand(2, 8, 8)})
        short = Problem(
            p.q[:, :8], p.k, p.v[:, :8], p.do[:, :8], p.decay, {n: x[:, :8] for n, x in p.more.items()}
        )
        p = constant(short, "beta", 1.0)
    plain = Problem(p.q, p.k, p.v, p.do, torch.full_like(p.decay, 0.25))
    wanted = solve("linear_decay", plain, gradients=False)["o"]
    scale = 1.0 if family == "mamba2" else 8**-0.5
    assert_close(solve(family, p, gradients=False), {"o": scale * wanted})


@pytest.mark.parametrize("family", ["gla", "mamba2"])
def test_gates_of_zero_are_linear_attention(family: Family) -> None:
    p = constant(problem(family, 90), "g", 0.0)
    wanted = solve("linear", p, gradients=False)["o"]
    assert_close(solve(family, p, gradients=False), {"o": wanted * (1.0 if family == "mamba2" else 8**-0.5)})


def test_rwkv6_with_a_bonus_of_one_and_no_decay_is_linear_attention() -> None:
    p = constant(constant(problem("rwkv6", 90), "w", 0.0), "u", 1.0)
    wanted = scaled(solve("linear", p, gradients=False)["o"], 8)
    assert_close(solve("rwkv6", p, gradients=False), {"o": wanted})


def test_kda_with_one_gate_for_all_channels_is_gated_delta() -> None:
    p = problem("gated_delta", 90)
    spread = Problem(
        p.q, p.k, p.v, p.do, p.decay, {"g": p["g"][..., None].expand(2, 90, 8), "beta": p["beta"]}
    )
    one, other = (solve(f, x, gradients=True) for f, x in (("gated_delta", p), ("kda", spread)))
    other["dg"] = other["dg"].sum(-1)
    assert_close(one, other)


def test_the_delta_rule_replaces_the_value_of_a_key_that_comes_again() -> None:
    """β = 1 and no decay: reading a key gives the value that was written last under it."""
    keys = torch.zeros(1, 4, 2, dtype=torch.float64)
    keys[0, [0, 2], 0] = keys[0, [1, 3], 1] = 1.0
    v = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(1, 4, 3)
    more = {"g": torch.zeros(1, 4, dtype=torch.float64), "beta": torch.ones(1, 4, dtype=torch.float64)}
    p = Problem(keys, keys, v, v, torch.zeros(1, dtype=torch.float64), more)
    assert_close(solve("gated_delta", p, gradients=False), {"o": v * 2**-0.5})


def test_abc_with_equal_slots_is_the_mean_of_the_values() -> None:
    p = constant(problem("abc", 50), "s", 0.0)
    wanted = p.v.cumsum(1) / torch.arange(1, 51, dtype=torch.float64)[:, None]
    assert_close(solve("abc", p, gradients=False), {"o": wanted})


def test_based_is_near_softmax_for_small_scores() -> None:
    p = problem("based", 60)
    small = p.replaced({"q": 0.05 * p.q})
    wanted = solve("softmax", small, gradients=False)["o"]
    assert float((solve("based", small, gradients=False)["o"] - wanted).norm() / wanted.norm()) < 1e-3


def test_retention_is_linear_attention_with_retnets_slopes() -> None:
    p = problem("retention", 90)
    assert p.decay.tolist() == pytest.approx(
        [-torch.tensor(1 - x).log().item() for x in (2**-5, 2**-6)], rel=1e-6
    )
    wanted = solve("linear_decay", p, gradients=True)
    assert_close(solve("retention", p, gradients=True), {name: scaled(x, 8) for name, x in wanted.items()})
