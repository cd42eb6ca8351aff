"""lightning-bench: how fast an attention kernel is and how much memory it takes, so that it can be trusted."""

__version__ = "0.1.0"

__all__ = ["__version__"]
