"""How long a test waits for another process: only a hang lasts longer, however busy the machine is."""

PATIENCE_S = 600.0
