"""The secret of private training: drawn from the operating system, kept in one file while it may be needed, then gone.

Noise hides an example only from those who cannot draw the same noise. Whoever has the key that sampling and noise come from
trains on each of two candidates, compares, and knows which one is the truth. So the key is a secret like a password's:

    secret_key()             64 bits of the operating system's, not a seed that anyone could try
    SECRET_FILE              where it lies while a training with checkpoints may have to go on: mode 0600, one file, deleted
                             when the training has ended
    everywhere else          it is not: `fit` takes it out of every state that it saves, returns, or shows to a callback
"""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxbackprop.refusals import is_key
from jaxbackprop.scaling.processes import from_first
from jaxbackprop.training.disk import sync_folder, write_whole

SECRET_FILE = "SECRET-do-not-publish.key"
WARNING = (
    "Whoever reads the last line can take the noise out of this training. Do not publish, copy or back up this file.\n"
    "`jaxbackprop` deletes it when the training has ended; without it a training that was interrupted cannot go on.\n"
)


class Secret(NamedTuple):
    """The key of a private training, and where it comes from: "given" by the caller, "kept" in a file, or "drawn" now."""

    key: Key[Array, ""]
    origin: str


def secret_key() -> Key[Array, ""]:
    """Draw a key from the operating system: as many bits as a key of JAX's default generator holds (threefry: 64).

    Give it to `fit` where the gradient is private, or leave `fit`'s key out, which draws one. Do not print it, nor write it
    down: what is drawn by it hides nothing from those who know it.

    >>> key = secret_key()
    >>> key.shape, bool(jax.random.key_data(key).tolist() == jax.random.key_data(secret_key()).tolist())
    ((), False)
    """
    return _key(str(jax.random.key_impl(jax.random.key(0))), secrets.token_bytes(_bits(jax.random.key(0)).nbytes))


def obtained(given: Key[Array, ""] | None, folder: Path | None) -> Secret:
    """The key of a private training: the caller's, the one kept in the folder, or a new one; the same in every process.

    Raises:
        ValueError: a key is given for a training that has drawn its own; or the file is not what was written.
    """
    path = folder and folder / SECRET_FILE
    kept = from_first(path.read_bytes() if path and jax.process_index() == 0 and path.is_file() else b"")
    if given is not None:
        is_key(given)
        if kept:
            raise ValueError(f"{path} holds the key of a training that has drawn its own: leave the key out")
        warn_if_guessable(given)
        return Secret(given, "given")
    if kept:
        return Secret(_read(path, kept), "kept")
    return Secret(_read(path, from_first(_as_text(secret_key()) if jax.process_index() == 0 else b"")), "drawn")


def keep(folder: Path, secret: Secret, new: bool) -> None:
    """Write the secret where a training that is interrupted finds it: by the first process alone, unless it was given.

    Raises:
        ValueError: the training is not new, and the secret that it began with is gone.
    """
    if secret.origin == "drawn" and not new:
        raise ValueError(
            f"{folder} lacks {SECRET_FILE}, without which this private training cannot go on: the file is deleted when a "
            "training has ended; start anew in another folder"
        )
    if secret.origin == "drawn" and jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / SECRET_FILE, _as_text(secret.key), mode=0o600)


@jax.jit
def blank(key):
    """A key of the same kind that says nothing."""
    zeros = jnp.zeros_like(jax.random.key_data(key))
    is_new = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(zeros, impl=jax.random.key_impl(key)) if is_new else zeros


def forget(folder: Path) -> None:
    """Delete the file, for good: a power cut does not bring it back."""
    path = folder / SECRET_FILE
    if jax.process_index() == 0 and path.exists():
        path.unlink()
        sync_folder(folder)


def warn_if_guessable(keys: Key[Array, "*n"]) -> None:
    """Warn of a key that is as good as published."""
    if is_guessable(keys):
        said = "key comes from a small integer: anyone who tries the four billion of them finds the noise, and subtracts it"
        warnings.warn(f"{said}. Leave key out, or give jaxbackprop.secret_key()", RuntimeWarning, stacklevel=4)


def is_guessable(key: Key[Array, "*n"]) -> bool:
    """Whether a key is what `jax.random.key` makes of an integer of at most 32 bits. What was split off one is not seen.

    >>> is_guessable(jax.random.key(7)), is_guessable(secret_key())
    (True, False)
    """
    high = _bits(key)[..., 0]  # the upper half of the integer: 0, or all ones below 0
    return bool(np.isin(high, (0, 2**32 - 1)).any())


def _bits(key) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def _key(generator: str, content: bytes) -> Key[Array, ""]:
    return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(content, np.uint32)), impl=generator)


def _as_text(key) -> bytes:
    return f"{WARNING}{jax.random.key_impl(key)} {_bits(key).tobytes().hex()}\n".encode()


def _read(path: Path | None, content: bytes) -> Key[Array, ""]:
    try:
        generator, digits = content.decode().splitlines()[-1].split()
        return _key(generator, bytes.fromhex(digits))
    except (ValueError, TypeError, IndexError):  # nothing of what it holds is said
        raise ValueError(f"{path} is damaged: this training cannot go on, start it anew in another folder") from None
