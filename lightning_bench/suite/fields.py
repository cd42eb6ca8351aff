"""Fields that tables of several kinds have in a suite file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo

from lightning_bench.suite.axes import PROVIDERS_ALLOWED, read_providers


def _providers(value: object, info: ValidationInfo) -> tuple[str, ...]:
    return read_providers(value, info.context["folder"] if info.context else Path.cwd())


# A message about a fault quotes the description of the field as what is allowed.
Providers = Annotated[tuple[str, ...], BeforeValidator(_providers), Field(description=PROVIDERS_ALLOWED)]
