"""What an emulated kernel can do wrong."""


class Hazard(Exception):
    """The kernel did what a GPU may punish: a race, an access out of bounds, an overflow, a wrong count."""


class Deadlock(Hazard):
    """Every partition waits at a barrier and no copy is on its way."""


class StaleEdit(Exception):
    """The text that an edit replaces is not in the kernel's source as often as the edit says."""
