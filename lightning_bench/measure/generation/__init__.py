"""Generation by whole models: the gate, the generator, and what is measured of it."""
