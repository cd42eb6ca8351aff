"""The families in plain PyTorch, written in another way than the oracles."""
