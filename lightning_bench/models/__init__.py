"""Whole language models that `lbench train` trains: their sizes, their layers, and attention plugged in."""
