"""The namespace of the operators in `torch.ops`: each build for the Hugging Face Hub has its own."""

import torch

ops = torch.ops.lightning_kernels


def add_op_namespace_prefix(op_name: str) -> str:
    """Return `NAMESPACE::op_name`, the name of the operator `op_name` for `torch.library`."""
    return f"{ops.name}::{op_name}"
