"""The machine: what it is, its GPU, its repository, and what it reaches at its best."""

from lightning_bench.machine.describe import Machine, describe_machine, detect_device
from lightning_bench.machine.git import harness_commit

__all__ = ["Machine", "describe_machine", "detect_device", "harness_commit"]
