"""Several processes: how they find each other, agree, share bytes, and notice that one is gone.

Each runs the same program; what the programs decide by a clock or a signal they must decide alike (`agree`), or they would
wait for each other for ever.
"""

import re
import socket
import time
import zlib
from contextlib import contextmanager

import jax
import numpy as np

PIECE = 2**26  # bytes that go from one process to the others at a time
HEARTBEAT_SECONDS = 10  # a process that is not heard of for so long is lost


class LostProcessError(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    initialization_seconds: int = 60,
) -> None:
    """Join the other processes of a run: afterwards `jax.devices()` are those of all. Call it before any computation.

    A process that ends, or is not heard of for `HEARTBEAT_SECONDS`, ends the others: JAX has no way to go on without it. So
    does one that never comes: JAX then aborts those that wait.

    Args:
        coordinator: HOST:PORT at which process 0 can be reached by all; None where JAX knows the cluster (SLURM, Open MPI,
            a TPU slice), and then the other two are None too.
        processes: how many there are.
        process_id: which this is, from 0.
        initialization_seconds: how long to wait for the others.

    Raises:
        ValueError: an address, number or id that cannot be; or None, and no cluster that JAX knows.
        TimeoutError: nobody answers at the address.
        OSError: process 0 cannot listen there: another program does.
    """
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"coordinator is {coordinator!r}: expected HOST:PORT, such as 10.0.0.1:8476")
        if processes is None or process_id is None or not 0 <= process_id < processes:
            raise ValueError(f"process_id is {process_id}, processes {processes}: expected 0 to processes − 1")
        if process_id > 0:  # JAX itself would abort this process
            _require_answer(host, int(port), initialization_seconds)
    # its handler would swallow SIGTERM; a signal is answered here, by saving and stopping
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            initialization_timeout=initialization_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ValueError(f"no cluster that JAX knows: give coordinator, processes and process_id ({error})") from None
    except jax.errors.JaxRuntimeError as error:
        raise OSError(
            f"{coordinator} cannot be used as the coordinator's address: {str(error).splitlines()[0]}"
        ) from None


def _require_answer(host: str, port: int, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"nobody answers at {host}:{port} for {seconds} s ({error}): start process 0 there, and give all processes "
                    "an address of it that they can reach"
                ) from None
            time.sleep(0.2)


@contextmanager
def noticing_loss():
    """Turn what JAX raises where another process is gone into a `LostProcessError`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # JAX raises either, with a status in front; our own refusals have none, and out of memory is no loss
        status = re.match(
            "(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION):", str(error)
        )
        if jax.process_count() == 1 or not status:
            raise
        found = str(error).splitlines()[0]
        raise LostProcessError(
            f"process {jax.process_index()} of {jax.process_count()} has lost another one ({found}): start the run again, "
            "from its checkpoint, with the processes that there are"
        ) from error


def agree(*numbers: int) -> tuple[int, ...]:
    """The largest of each number over all processes: what one of them wants, all do.

    >>> agree(0, 3)
    (0, 3)
    """
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    gathered = np.asarray(multihost_utils.process_allgather(np.asarray(numbers, np.int32)))
    return tuple(gathered.max(axis=0).tolist())


def require_alike(**told: str) -> None:
    """Refuse to go on where the processes were told different things; each is given as text, or a digest of what it is.

    >>> require_alike(seed="0")
    """
    numbers = [zlib.crc32(text.encode()) >> 1 for text in told.values()]
    most = agree(*numbers, *(-number for number in numbers))
    apart = [name for name, high, low in zip(told, most, most[len(told) :], strict=False) if high != -low]
    if apart:
        raise ValueError(f"the processes were not told the same: {', '.join(apart)} differ; start all of them alike")


def from_first(content: bytes) -> bytes:
    """Process 0's bytes, in every process.

    >>> from_first(b"the same")
    b'the same'
    """
    if jax.process_count() == 1:
        return content
    from jax.experimental import multihost_utils

    pieces, rest = agree(*divmod(len(content), PIECE)) if jax.process_index() == 0 else agree(0, 0)
    found = bytearray()
    for start in range(0, pieces * PIECE + rest, PIECE):  # each goes through a device
        length = min(PIECE, pieces * PIECE + rest - start)
        own = np.frombuffer(content[start : start + length].ljust(length, b"\0")[:length], np.uint8)
        found += np.asarray(multihost_utils.broadcast_one_to_all(own)).astype(np.uint8).tobytes()
    return bytes(found)
