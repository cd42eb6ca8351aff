"""A training step of a whole model, checked and measured."""
