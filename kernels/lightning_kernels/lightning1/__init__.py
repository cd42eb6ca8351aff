"""Lightning Attention-1 in Triton."""
