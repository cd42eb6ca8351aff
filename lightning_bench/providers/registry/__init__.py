"""How providers are declared, found and checked."""
