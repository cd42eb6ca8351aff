"""How a case is measured: correctness first, then time or memory, with clock readings."""
