"""Many callers' questions to the database, answered together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Pool(Generic[Question, Key, Answer]):
    """While one batch is under way the next one gathers: a caller alone waits for nobody, a thousand share a trip."""

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Awaitable[Mapping[Key, Answer]]],
        most: int,
        is_personal: Callable[[Exception], bool],
    ) -> None:
        """`most`: callers in one batch. `is_personal`: whether a fault may lie in one caller's questions."""
        self._answer = answer
        self._most = most
        self._is_personal = is_personal
        self._waiting: list[tuple[Sequence[Question], asyncio.Future[Mapping[Key, Answer]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, questions: Sequence[Question]) -> Mapping[Key, Answer]:
        """The answers to these questions, among others'. Raises what answering them raises."""
        future: asyncio.Future[Mapping[Key, Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((questions, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run(), name="pool")
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                answers = await self._answer([each for questions, _ in batch for each in questions])
            except Exception as trouble:  # noqa: BLE001 - it is the callers' to see
                if len(batch) > 1 and self._is_personal(trouble):
                    await self._ask_one_by_one(batch)
                else:
                    for _, future in batch:
                        _fail(future, trouble)
            else:
                for _, future in batch:
                    if not future.done():
                        future.set_result(answers)

    async def _ask_one_by_one(
        self, batch: Sequence[tuple[Sequence[Question], "asyncio.Future[Mapping[Key, Answer]]"]]
    ) -> None:
        """One of them has spoilt it for all; it alone is to hear of that."""
        for questions, future in batch:
            try:
                answers = await self._answer(questions)
            except Exception as trouble:  # noqa: BLE001 - as above
                _fail(future, trouble)
            else:
                if not future.done():
                    future.set_result(answers)


def _fail(future: "asyncio.Future[Mapping[Key, Answer]]", trouble: Exception) -> None:
    if not future.done():
        future.set_exception(trouble)
