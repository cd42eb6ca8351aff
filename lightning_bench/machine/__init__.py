"""The machine: what it is, its GPUs, its repository, and what it reaches at its best."""

from lightning_bench.machine.describe import Machine, describe_machine, detect_device, harness_commit

__all__ = ["Machine", "describe_machine", "detect_device", "harness_commit"]
