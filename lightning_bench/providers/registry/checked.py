"""Check that what a file or an entry point names is a Provider with all its declarations."""

from __future__ import annotations

from typing import get_args

from lightning_bench.case import FAMILIES, Layout
from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.base import Provider

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
REQUIRED = ("name", "label", "family", "package")
_PROVIDER = "lightning_bench.providers.Provider"  # where users import it from, as README says


class NotAProvider(UsageError):  # noqa: N818 - says what was found
    """A file or an entry point names something that is not a usable provider."""


def as_provider(found: object, what: str) -> Provider:
    """Return `found`, a Provider instance, or an instance of it, a subclass; `what` names it in errors.

    Raise NotAProvider if it is neither, if the class needs arguments or if a declaration is missing.
    """
    if isinstance(found, type) and issubclass(found, Provider):
        try:
            found = found()
        except Exception as error:
            raise NotAProvider(f"{what} cannot be made without arguments: {error}") from error
    if not isinstance(found, Provider):
        kind = found.__name__ if isinstance(found, type) else f"of type {type(found).__name__}"
        raise NotAProvider(f"{what} is {kind}, and neither a subclass nor an instance of {_PROVIDER}")
    missing = [attribute for attribute in REQUIRED if not getattr(found, attribute, "")]
    if missing:
        raise NotAProvider(f"{what} declares no {', '.join(missing)}")
    if found.family not in FAMILIES:
        raise NotAProvider(f"{what} has family {found.family!r}; families are {', '.join(FAMILIES)}")
    if found.layout not in LAYOUTS:
        raise NotAProvider(f"{what} has layout {found.layout!r}; layouts are {', '.join(LAYOUTS)}")
    if type(found).build is Provider.build:
        raise NotAProvider(f"{what} does not implement build()")
    return found
