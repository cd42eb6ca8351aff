"""Published tables compared with measured rows."""
