"""A plain function as a provider: which arguments it gets, and how its family and layout are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_bench.case import DEVICES, DTYPES, FAMILIES, Family, Layout
from lightning_bench.families import definition_of
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.providers.registry.checked import LAYOUTS, Unfit
from lightning_bench.words import choice

if TYPE_CHECKING:
    from torch import Tensor

PACKED = "cu_seqlens"
"""The parameter by which a function takes packed documents."""

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_PLACED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Arguments(NamedTuple):
    """The names of the inputs that a function gets by position, and by keyword: parameter to input."""

    by_position: tuple[str, ...]
    by_keyword: dict[str, str]


class FunctionProvider(Provider):
    """A plain function, called with the inputs of its family and differentiated by autograd.

    It may take any dtype and run on any device, and heads of k and v that are fewer than those of q: what it
    cannot do, it says by raising. It takes packed documents if it has a parameter `cu_seqlens`, which else
    gets None. The tensors have the layout that was given with its family.
    """

    package = "torch"
    devices = DEVICES
    dtypes = DTYPES
    grouped_heads = True

    def __init__(self, function: Callable[..., Tensor], name: str, family: Family, layout: Layout) -> None:
        self.name = self.label = name  # type: ignore[misc]
        self.family, self.layout = family, layout  # type: ignore[misc]
        self._function = function
        self._arguments = bind(function, name, family)
        self.packs = PACKED in self._arguments.by_position or PACKED in self._arguments.by_keyword  # type: ignore[misc]

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return the call of the function with `inputs`."""
        positional = [_input(inputs, each) for each in self._arguments.by_position]
        keyword = {parameter: _input(inputs, each) for parameter, each in self._arguments.by_keyword.items()}
        return partial(self._function, *positional, **keyword)


def is_function(found: object) -> bool:
    """Return whether `found` is measured by calling it: a function or an object that can be called."""
    return callable(found) and not isinstance(found, type | Provider)


def function_provider(
    function: Callable[..., Tensor], name: str, family: str, layout: str
) -> FunctionProvider:
    """Return the provider of a plain function; `family` and `layout` may be "" if nothing names them.

    Raise Unfit without a family, for an unknown family or layout, and for parameters that the inputs
    of the family do not fit.
    """
    if not family:
        raise Unfit(
            f"{name} is a plain function, which does not say what it computes; give --family with --kernel "
            f"or --provider, or put the family behind its name, as in {name}@softmax; families are "
            f"{', '.join(FAMILIES)}"
        )
    if family not in FAMILIES:
        raise Unfit(f"{name} has family {family!r}, which is not known; {choice(family, FAMILIES)}")
    if layout and layout not in LAYOUTS:
        raise Unfit(f"{name} has layout {layout!r}; layouts are {', '.join(LAYOUTS)}")
    return FunctionProvider(function, name, family, layout or "bhnd")


def bind(function: Callable[..., Any], name: str, family: str) -> Arguments:
    """Return which inputs of `family` go to which parameters of `function`.

    An input goes to the parameter of its name, slopes also to `s`, and `cu_seqlens` to a parameter of that
    name if there is one. The others go, in the order of
    `Definition.arguments`, to the parameters that have neither such a name nor a default. A function without
    a signature, such as one that is written in C++, gets all by position. Raise Unfit if an input or a
    parameter is left.
    """
    inputs = definition_of(family).arguments
    try:
        parameters = list(signature(function).parameters.values())
    except (TypeError, ValueError):
        return Arguments(inputs, {})
    named = _named(parameters, inputs)
    left = [each for each in inputs if each not in named.values()]
    positional: list[str] = []
    keyword: dict[str, str] = {}
    missing: list[str] = []
    has_gap = False  # a parameter that keeps its default: those behind it are passed by keyword
    for parameter in parameters:
        if parameter.kind is Parameter.VAR_POSITIONAL:
            if not has_gap:
                positional += left
                left = []
            continue
        if parameter.kind is Parameter.VAR_KEYWORD:
            keyword |= {each: each for each in left}
            left = []
            continue
        given = _given(parameter, named, left)
        if given is None:
            has_gap = True
            if parameter.default is Parameter.empty:
                missing.append(parameter.name)
        elif parameter.kind in _PLACED and not has_gap:
            positional.append(given)
        else:
            keyword[parameter.name] = given
    if left or missing:
        raise Unfit(_misfit(name, family, inputs, left, missing))
    return Arguments(tuple(positional), keyword)


def _named(parameters: Sequence[Parameter], inputs: Sequence[str]) -> dict[str, str]:
    """Return the inputs of the parameters that have their names."""
    names = {each.name for each in parameters if each.kind in _NAMED}
    named = {each: each for each in inputs if each in names}
    if PACKED in names:
        named[PACKED] = PACKED
    if "slopes" in inputs and "slopes" not in names and "s" in names:
        named["s"] = "slopes"
    return named


def _given(parameter: Parameter, named: dict[str, str], left: list[str]) -> str | None:
    """Return the input that a parameter gets, None for none; one by position is taken from `left`."""
    if parameter.kind in _NAMED and parameter.name in named:
        return named[parameter.name]
    if parameter.kind in _PLACED and parameter.default is Parameter.empty and left:
        return left.pop(0)
    return None


def _misfit(name: str, family: str, inputs: Sequence[str], left: list[str], missing: list[str]) -> str:
    faults = [f"no parameter takes {', '.join(left)}"] if left else []
    faults += [f"nothing is given for {', '.join(missing)}"] if missing else []
    return (
        f"{name} does not fit family {family}, whose inputs are {', '.join(inputs)}: {' and '.join(faults)}; "
        "inputs go to the parameters of their names, then in this order to those without a default"
    )


def _input(inputs: Inputs, name: str) -> Tensor | None:
    if name == PACKED:
        return inputs.cu_seqlens
    return inputs.decay if name == "slopes" else inputs[name]
