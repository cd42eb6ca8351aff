"""Operators of published systems that no library serves: our own, in torch, measured like any other."""
