"""Suites: a TOML file that says what to measure, validated, and expanded to cases."""

from lightning_bench.suite.axes import LengthBound
from lightning_bench.suite.expand import every_case, expand
from lightning_bench.suite.find import bundled_suites, default_suite, find_suite
from lightning_bench.suite.load import load_suite, suite_with_family
from lightning_bench.suite.model import Exclude, Group, Limits, Suite
from lightning_bench.suite.options import parse_ints, parse_providers, parse_words
from lightning_bench.suite.overrides import Overrides, checked_overrides

__all__ = [
    "Exclude",
    "Group",
    "LengthBound",
    "Limits",
    "Overrides",
    "Suite",
    "bundled_suites",
    "checked_overrides",
    "default_suite",
    "every_case",
    "expand",
    "find_suite",
    "load_suite",
    "parse_ints",
    "parse_providers",
    "parse_words",
    "suite_with_family",
]
