"""Whole language models, trained and generating: their sizes, their layers, and attention plugged in."""
