"""The kind of device that a command computes on.

In Python the choice is JAX's own: `jax.config.update("jax_platforms", "cpu")` before anything is computed.
"""

from contextlib import contextmanager

import jax

from jaxbackprop.words import unknown

KINDS = ("cpu", "gpu", "tpu")


def platform() -> str:
    """The kind of device that JAX computes on.

    >>> platform() in KINDS
    True
    """
    return jax.devices()[0].platform


@contextmanager
def preferred(kind: str | None):
    """Let JAX look for the CPU alone where that is wanted, should it not have looked yet: the GPU is neither waited for nor held.

    A GPU or TPU is JAX's own choice where there is one.
    """
    before = jax.config.values["jax_platforms"]
    if kind == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)


def require(kind: str | None) -> None:
    """Refuse a kind of device that JAX does not compute on here; None is JAX's own choice.

    Raises:
        ValueError: there is none, or JAX was told to use another.

    >>> require(None)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(unknown("device", str(kind), KINDS))
    told = jax.config.values["jax_platforms"]
    told = f" (JAX_PLATFORMS is {told!r})" if told else ""
    try:
        found = platform()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that it has found one
        raise ValueError(f"JAX finds no device to compute on{told}: {error or 'there is none of that kind'}") from None
    if kind in (None, found):
        return
    if kind == "cpu":
        raise ValueError(f"--device cpu: JAX computes on a {found.upper()} in this process already: start another one")
    raise ValueError(
        f"--device {kind}: JAX computes on a {found.upper()} here{told}: give --device {found}; a GPU needs the extra cuda, "
        "a TPU tpu"
    )
