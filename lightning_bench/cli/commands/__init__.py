"""The commands of `lbench`, one module per command."""
