"""The device: timer, clocks, memory and peak rates."""
