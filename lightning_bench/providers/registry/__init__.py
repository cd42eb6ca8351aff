"""How providers are declared, found, checked and listed."""
