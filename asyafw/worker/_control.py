"""Which jobs somebody has cancelled."""

import logging
from collections.abc import Callable

from anyio.abc import TaskStatus

from asyafw._follow import follow
from asyafw.envelope import MSGPACK, new_id
from asyafw.events import CONTROL, Cancel, decode_cancel
from asyafw.exceptions import DecodeError
from asyafw.transport import Append, Transport

__all__ = ["Cancellations"]

_KEEP_S = 86_400.0
_MOST = 100_000

_logger = logging.getLogger("asyafw.worker")


class Cancellations:
    """Follows the control log; `on_cancel` is called with each job that is cancelled.

    A cancellation is remembered for a day, unless there are too many.
    """

    def __init__(self, on_cancel: Callable[[str], None]) -> None:
        self.jobs: dict[str, None] = {}
        self._on_cancel = on_cancel

    async def run(self, transport: Transport, *, task_status: TaskStatus[None]) -> None:
        """Read what was cancelled so far, say so by `task_status`, and read on."""
        # A job that nobody has: once its cancellation is read, all earlier ones have been.
        nobody = new_id()
        await transport.emit(Append(CONTROL, MSGPACK.encode(Cancel(nobody))))
        async for entry in follow(transport, CONTROL, since_s=_KEEP_S):
            try:
                job = decode_cancel(entry.body).cancel
            except DecodeError as error:
                _logger.warning("somebody wrote to the log of control what is %s", error)
                continue
            if job == nobody:
                task_status.started()
            else:
                self._remember(job)

    def _remember(self, job: str) -> None:
        self.jobs[job] = None
        if len(self.jobs) > _MOST:
            del self.jobs[next(iter(self.jobs))]
        self._on_cancel(job)
