"""Check that what a file or an entry point names is a Provider with all its declarations.

What its methods return is checked at each call, so that a wrong type is the reason of a row and not an error
of the harness somewhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, get_args

from lightning_bench.case import DEVICES, DIRECTIONS, DTYPES, FAMILIES, Layout
from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.base import Provider

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
REQUIRED = ("name", "label", "family", "package")
_PROVIDER = "lightning_bench.providers.Provider"  # where users import it from, as README says
_SETS: dict[str, tuple[str, ...]] = {"devices": DEVICES, "dtypes": DTYPES, "directions": DIRECTIONS}
_OR_NONE = (str, type(None))
_RETURNS: dict[str, tuple[type, ...]] = {
    "version": (str,),
    "config": (str,),
    "unavailable": _OR_NONE,
    "unsupported": _OR_NONE,
}


class NotAProvider(UsageError):  # noqa: N818 - says what was found
    """A file or an entry point names something that is not a usable provider."""


class BadProvider(NotAProvider):
    """What is named is a provider, and one of its declarations is wrong or missing."""


class FailedImport(UsageError):  # noqa: N818 - says what has happened
    """A provider file or a kernel of the Hub is there, and its import raised."""


class Unfit(NotAProvider):
    """What is named does not go with the family or the layout that was given, or needs one."""


def as_provider(found: object, what: str) -> Provider:
    """Return `found`, a Provider instance, or an instance of it, a subclass; `what` names it in errors.

    Raise NotAProvider if it is neither, BadProvider if the class needs arguments or a declaration is missing
    or odd.
    """
    if isinstance(found, type) and issubclass(found, Provider):
        try:
            found = found()
        except Exception as error:
            raise BadProvider(f"{what} cannot be made without arguments: {error}") from error
    if not isinstance(found, Provider):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        called = isinstance(found, type) and "__call__" in dir(found)
        hint = "; an instance of it, which can be called, will do" if called else ""
        raise NotAProvider(f"{what} is {kind}, and neither a subclass nor an instance of {_PROVIDER}{hint}")
    _check_declarations(found, what)
    for method, kinds in _RETURNS.items():
        _check_returns(found, method, partial(_is_one_of, kinds))
    _check_returns(found, "build", callable)
    return found


def _check_declarations(found: Provider, what: str) -> None:
    missing = [attribute for attribute in REQUIRED if not getattr(found, attribute, "")]
    if missing:
        needed = f"a provider has {', '.join(REQUIRED)} as class attributes"
        raise BadProvider(f"{what} declares no {', '.join(missing)}; {needed}")
    for attribute in ("name", "label", "package", "summary"):
        text = getattr(found, attribute)
        if not isinstance(text, str) or not (text.isprintable() and text == text.strip()):
            raise BadProvider(f"{what} has {attribute} {text!r}; it is one line of text")
    if found.family not in FAMILIES:
        raise BadProvider(f"{what} has family {found.family!r}; families are {', '.join(FAMILIES)}")
    if found.layout not in LAYOUTS:
        raise BadProvider(f"{what} has layout {found.layout!r}; layouts are {', '.join(LAYOUTS)}")
    for attribute, known in _SETS.items():
        words = getattr(found, attribute)
        if not isinstance(words, tuple) or not all(word in known for word in words):
            raise BadProvider(f"{what} has {attribute} {words!r}; it is a tuple out of {', '.join(known)}")
    if type(found).build is Provider.build:
        raise BadProvider(f"{what} does not implement build()")


def _is_one_of(kinds: tuple[type, ...], value: object) -> bool:
    return isinstance(value, kinds)


def _check_returns(found: Provider, method: str, fits: Callable[[Any], bool]) -> None:
    """Have `found.method(...)` raise TypeError if what it returns does not fit."""
    own = getattr(found, method)
    if getattr(own, "is_checked", False):  # an instance that is looked up again
        return
    wanted = "function" if method == "build" else "text"

    @wraps(own)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value = own(*args, **kwargs)
        if not fits(value):
            raise TypeError(f"{method}() returned {repr(value)[:60]}, which is no {wanted}")
        return value

    checked.is_checked = True  # type: ignore[attr-defined]
    setattr(found, method, checked)
