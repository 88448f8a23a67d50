"""Ctrl-C and SIGTERM: finish the call, save, say how to go on; a second signal exits at once."""

import os
import signal
import sys
import threading

import jax
import numpy as np

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Context in which the first SIGINT or SIGTERM only sets a flag.

    Python runs signal handlers between its own instructions, and a call into XLA, such as a compilation, is one of
    them however long it takes. So a thread reads the numbers of the signals from a pipe as they arrive.
    """

    def __init__(self):
        self.asked = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            reader, self._pipe = os.pipe()
            os.set_blocking(self._pipe, False)
            self._wakeup = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
            threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe)  # ends the thread

    def _handle(self, number, frame):
        self.asked = True

    def _watch(self, reader: int) -> None:
        asked = False
        while number := os.read(reader, 1):
            if number[0] not in _SIGNALS:
                continue
            if asked:
                os._exit(128 + number[0])
            asked = True
            print("stopping after this call; a second signal exits at once", file=sys.stderr, flush=True)
        os.close(reader)

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer."""
        if jax.process_count() == 1:
            return self.asked
        from jax.experimental import multihost_utils
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self.asked))))
