"""The one thread that renders: only the latest request of every client counts, and clients take turns."""

import logging
import threading
import time
from collections.abc import Callable, Hashable

__all__ = ["RenderQueue"]


class RenderQueue:
    """Queue of render jobs, run by one thread.

    A job has a key; a waiting job is replaced by a newer one of the same key, which keeps its turn. So requests that
    come faster than they can be met never pile up, and no client waits for more than one job of each other client.
    """

    def __init__(self):
        self._jobs: dict[Hashable, tuple[float, Callable[[], None], bool]] = {}  # in the order of turns
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="render", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        key: Hashable,
        job: Callable[[], None],
        *,
        delay: float = 0.0,
        replace: bool = True,
        always: bool = False,
    ) -> None:
        """Run a job, `delay` seconds from now at the earliest, in place of any that waits under this key.

        Args:
            replace: False: a job that already waits stays.
            always: Run it even if the queue stops meanwhile: it removes files.
        """
        with self._condition:
            if replace or key not in self._jobs:
                self._jobs[key] = (time.monotonic() + delay, job, always)
                self._condition.notify()

    def forget(self, key: Hashable) -> None:
        """Drop the job that waits under a key."""
        with self._condition:
            self._jobs.pop(key, None)

    def stop(self) -> None:
        """Finish the current job and those that are run always, and start no other."""
        with self._condition:
            self._stopped = True
            self._jobs = {key: waiting for key, waiting in self._jobs.items() if waiting[2]}
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:  # one client's error must not stop the frames of others
                logging.getLogger(__name__).exception("a job of the viewer failed")

    def _next(self) -> Callable[[], None] | None:
        """Wait for the first job that is due; None to stop."""
        with self._condition:
            while not (self._stopped and not self._jobs):
                now = time.monotonic()
                for key, (due, job, _) in self._jobs.items():
                    if due <= now or self._stopped:
                        del self._jobs[key]
                        return job
                soonest = min((due for due, *_ in self._jobs.values()), default=None)
                self._condition.wait(None if soonest is None else soonest - now)
            return None
