"""PyTorch forms of the families, written another way than the oracles."""
