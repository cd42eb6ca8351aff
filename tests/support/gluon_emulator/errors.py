"""What an emulated kernel can do wrong."""


class HazardError(Exception):
    """The kernel did what a GPU may punish: a race, an access out of bounds, an overflow, a wrong count."""


class DeadlockError(HazardError):
    """Every partition waits at a barrier and no copy is on its way."""


class StaleEditError(Exception):
    """The text that an edit replaces is not in the kernel's source as often as the edit says."""
