"""How training ends other than at its end: a wish to stop, and a process of the run that is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from contextlib import contextmanager

from jaxbackprop.scaling import processes

LOST = 75  # "try again", as sysexits.h has it


@contextmanager
def wishes_to_stop():
    """Ctrl-C and SIGTERM as a wish, granted after the epoch, or in the middle of a long one; a second one ends at once.

    Yields the signals that came: a list, which is empty until one does.
    """
    came: list[int] = []

    def asked(number, _frame):
        if came:
            os._exit(128 + number)
        came.append(number)
        os.write(2, b"\njaxbackprop: stopping as soon as it is saved; once more to stop at once\n")

    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [(number, signal.signal(number, asked)) for number in heard]
    try:
        yield came
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def joined(arguments: Namespace):
    """Join the other processes, where there are any. A small watcher, of this one, says a last word should JAX abort it."""
    address, count, process_id = arguments.coordinator, arguments.processes, arguments.process_id
    if not address:
        yield
        return
    which = "a process" if None in (count, process_id) else f"process {process_id} of {count}"
    cure = "start the run again, with --resume where it has a checkpoint, with the processes that there are"
    said = f"jaxbackprop: {which} ended before its run did: if another one was lost, or did not come, {cure}\n"
    # it reads until this process closes the pipe, which its end does too, whatever that is; nothing read is no farewell
    script = "import sys; sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1])"
    command = [sys.executable, "-c", script, said]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as watcher:
        try:
            processes.join(None if address == "auto" else address, count, process_id)
            with processes.noticing_loss():
                with _stdout_to_stderr():  # the first message between them makes their library print
                    processes.agree(0)
                yield
        except processes.LostProcessError as error:
            print(f"jaxbackprop: {error}", file=sys.stderr, flush=True)
            watcher.communicate(b"farewell")
            os._exit(LOST)  # at once: what JAX does at exit waits for the others
        finally:
            watcher.communicate(b"farewell")


@contextmanager
def _stdout_to_stderr():
    """What is printed below Python goes to stderr: stdout stays what was asked for."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
