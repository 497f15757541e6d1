"""Turns and circuits, which all who use the same server and prefix share."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from anyio import CancelScope
from msgspec import Raw, Struct
from msgspec.msgpack import Encoder
from msgspec.structs import astuple

from asyafw.coordination import Change, CircuitRules, Pace, Permit, Report, Turn, Wait
from asyafw.exceptions import TransportClosed, TransportError
from asyafw_redis._errors import FOREIGN, refused, translated
from asyafw_redis._link import Link
from asyafw_redis._options import Options
from asyafw_redis._scripts import LIMITS

__all__ = ["RedisCoordinator"]

_MOST_STEPS = 256
_CHANGES: Final[tuple[Change, ...]] = (None, "opened", "paused", "closed")


class _Step(Struct, eq=False):
    """A step as the script takes it, and who waits for its answer."""

    encoded: Raw
    answer: "asyncio.Future[Any]"


class RedisCoordinator:
    """An `asyafw.coordination.Coordinator` on the server's clock, with a connection of its own.

    While one batch of steps is on its way the next one gathers, as with what is settled.
    Once a step is sent, it is done, though its caller be cancelled: a turn is lost then.
    """

    def __init__(self, link: Link, options: Options) -> None:
        self._link = link
        self._options = options
        self._encode = Encoder().encode
        self._steps: list[_Step] = []
        self._more = asyncio.Event()
        self._is_closed = False

    async def take_turn(
        self, key: str, pace: Pace, turn: Turn | None = None, within_us: int | None = None
    ) -> Wait:
        had = (False, False) if turn is None else (turn.at_us, turn.sure)
        within = False if within_us is None else within_us
        asked = ("turn", key, False, pace.step_us, pace.ahead_us, *had, within)
        at_us, sure, now_us = await self._ask(asked)
        return Wait(Turn(at_us, bool(sure)), now_us)

    async def ask(self, key: str, rules: CircuitRules) -> Permit:
        allowed, wait, spread, probe, failing = await self._ask(("ask", key, False, astuple(rules)))
        return Permit(bool(allowed), wait, spread, probe, bool(failing))

    async def tell(self, key: str, rules: CircuitRules, report: Report) -> tuple[Change, int]:
        asked = ("tell", key, False, astuple(rules), *astuple(report))
        change, for_us = await self._ask(asked)
        return _CHANGES[int(change)], int(for_us)

    async def _ask(self, arguments: tuple[Any, ...]) -> Any:
        if self._is_closed:
            raise TransportClosed
        step = _Step(Raw(self._encode(arguments)), asyncio.get_running_loop().create_future())
        self._steps.append(step)
        self._more.set()
        return await step.answer

    async def run(self) -> None:
        """Ask what is to be asked, until it is closed."""
        with CancelScope(shield=True):
            while not self._is_closed:
                await self._more.wait()
                self._more.clear()
                while batch := self._batch():
                    await self._run_batch(batch)

    async def close(self) -> None:
        """Answer nobody any more."""
        self._is_closed = True
        self._more.set()
        while batch := self._batch():
            _answer(batch, [TransportClosed() for _ in batch])
        await self._link.close()

    def _batch(self) -> list[_Step]:
        taken, self._steps = self._steps[:_MOST_STEPS], self._steps[_MOST_STEPS:]
        return [step for step in taken if not step.answer.done()]

    async def _run_batch(self, batch: list[_Step]) -> None:
        steps = self._encode([step.encoded for step in batch])
        answers: list[Any]
        try:
            await self._link.open()
            answers = await self._link.run(LIMITS, self._options.prefix, steps)
        except FOREIGN as error:
            # A copy for each: who raises one adds to its traceback.
            answers = [translated(error, self._options) for _ in batch]
        _answer(batch, [self._checked(answer) for answer in answers])

    def _checked(self, answer: Any) -> Any:
        if isinstance(answer, bytes):
            return refused(answer.decode(errors="replace"), self._options)
        return answer


def _answer(batch: Sequence[_Step], answers: Sequence[Any]) -> None:
    for step, answer in zip(batch, answers, strict=True):
        if step.answer.done():
            continue
        if isinstance(answer, TransportError):
            step.answer.set_exception(answer)
        else:
            step.answer.set_result(answer)
