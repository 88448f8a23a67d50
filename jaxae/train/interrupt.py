"""Ctrl-C and SIGTERM: finish the call, save, say how to go on; a second signal exits at once."""

import os
import signal
import threading

import jax
import numpy as np


class Interrupt:
    """Context in which the first SIGINT or SIGTERM only sets a flag."""

    def __init__(self):
        self.asked = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.asked:
            os._exit(128 + number)
        self.asked = True

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer."""
        if jax.process_count() == 1:
            return self.asked
        from jax.experimental import multihost_utils
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self.asked))))
