"""Rows that were not measured on one device, set in one way."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from lightning_bench.machine import describe_machine
from lightning_bench.record import COLUMNS
from lightning_bench.record.identities import IDENTITY, unlike
from tests.support.report_rows import PAPER

ROW = replace(PAPER, machine_id="m1", host="h1", gpu_uuid="g1", power_limit_w=700.0, ecc="on")


def test_the_columns_are_fields_of_a_machine_too() -> None:
    assert set(IDENTITY) <= set(COLUMNS)
    assert set(IDENTITY) <= {field.name for field in fields(describe_machine("cpu"))}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"gpu_uuid": "g2"}, ["gpu_uuid differs: g1 (base), g2 (head)"]),
        ({"power_limit_w": 650.5}, ["power_limit_w differs: 700 (base), 650.5 (head)"]),
        ({"ecc": "off", "mig": "1g"}, ["ecc differs: on (base), off (head)"]),  # mig is not known of base
        ({"host": "h2"}, []),  # the GPU is known
        ({"host": "", "gpu_uuid": "", "power_limit_w": None, "ecc": ""}, []),
        ({"gpu_uuid": "g2", "machine_id": "m2"}, []),  # another kind is another matter
        ({"gpu_uuid": "g2", "metric": "memory"}, []),
        ({"gpu_uuid": "g2", "metric": "train"}, ["gpu_uuid differs: g1 (base), g2 (head)"]),
        ({"gpu_uuid": "g2", "status": "crashed"}, []),
    ],
)
def test_what_differs(change: dict[str, object], found: list[str]) -> None:
    assert unlike({"base": [ROW, ROW], "head": [replace(ROW, **change)]}) == found  # type: ignore[arg-type]


def test_hosts_matter_on_a_cpu() -> None:
    here = replace(ROW, gpu_uuid="", device="cpu")
    assert unlike({"a": [here, replace(here, host="h2")]}) == ["host differs: h1 (a), h2 (a)"]


def test_many_values_are_counted() -> None:
    rows = [replace(ROW, gpu_uuid=f"g{number}") for number in range(7)]
    (sentence,) = unlike({"a": rows})
    assert sentence.endswith("g3 (a), and 3 more")
