"""Lightning Attention-2: a portable Triton kernel, a Hopper kernel and PyTorch forms."""
