"""lightning-bench: how fast an attention kernel is and how much memory it takes, trustworthily."""

__version__ = "0.1.0"

__all__ = ["__version__"]
