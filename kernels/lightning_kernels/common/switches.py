"""What the environment switches. It is read anew for each call, so that setting `os.environ` takes effect."""

import os

# A look-up in `os.environ` takes a tenth of the time of a short call. The dict behind it takes a twentieth of
# that; its keys and values are encoded.
_environment: dict[object, object] = vars(os.environ)["_data"]
_HOPPER, _INVARIANT = (
    os.environ.encodekey(name) for name in ("LIGHTNING_KERNELS_HOPPER", "LIGHTNING_KERNELS_INVARIANT")
)
_NO, _YES = (os.environ.encodevalue(value) for value in ("0", "1"))


def hopper_is_on() -> bool:
    """Say whether the Hopper kernel may be used: not with LIGHTNING_KERNELS_HOPPER=0."""
    return _environment.get(_HOPPER) != _NO


def invariant() -> bool:
    """Say whether LIGHTNING_KERNELS_INVARIANT=1 asks for results that do not depend on what else is computed.

    Then launches are cut up in one way, whatever their numbers of sequences, heads and tokens: the bits of a
    row do not depend on the batch, on other heads, on later tokens or on what is packed beside it.
    """
    return _environment.get(_INVARIANT) == _YES
