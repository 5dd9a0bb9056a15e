"""Work is cancelled when its client leaves, wherever it waits, and nothing of it is lost or left."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.departure import unless_client_leaves


class Connection:
    """A client's connection, as ASGI's `receive` tells of it."""

    def __init__(self, *first: str) -> None:
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for kind in first:
            self._told.put_nowait({"type": kind})
        self.is_asked = False

    def leave(self) -> None:
        self._told.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        self.is_asked = True
        return await self._told.get()


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[list[dict[str, Any]]]:
    """Afterwards no task is pending but this one, none is being cancelled, and the loop has heard of no lost error."""
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    assert me is not None
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield complaints
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert asyncio.all_tasks() == before
    assert me.cancelling() == 0
    assert complaints == []


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(5), nothing_left():
            await test()

    asyncio.run(guarded())


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_work_that_ends_is_not_disturbed(count: int) -> None:
    async def test() -> None:
        assert await unless_client_leaves(Connection().receive, steps(count)) is True

    run(test)


def test_what_work_raises_reaches_the_caller() -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("ours")

    async def test() -> None:
        with pytest.raises(ValueError, match="ours"):
            await unless_client_leaves(Connection().receive, failing())

    run(test)


@pytest.mark.parametrize("leaves_after", range(8))
def test_a_client_may_leave_at_any_step(leaves_after: int) -> None:
    """Of a work of four steps; whether it counts as ended or as left, it is over and its clean-up has run."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await steps(4)
            seen.append("whole")
        finally:
            seen.append("clean")

    async def test() -> None:
        connection = Connection()

        async def leave() -> None:
            await steps(leaves_after)
            connection.leave()

        leaving = asyncio.create_task(leave())
        ended = await unless_client_leaves(connection.receive, work())
        await leaving
        assert seen == (["whole", "clean"] if ended else ["clean"])

    run(test)


def test_a_client_that_had_left_before_is_noticed_at_the_first_wait() -> None:
    async def test() -> None:
        connection = Connection("http.disconnect")
        assert await unless_client_leaves(connection.receive, asyncio.Event().wait()) is False

    run(test)


def test_more_of_the_body_is_no_departure() -> None:
    async def test() -> None:
        connection = Connection("http.request", "http.request")
        assert await unless_client_leaves(connection.receive, steps(6)) is True
        assert connection.is_asked

    run(test)


async def waits_for_a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def waits_within_a_timeout() -> None:
    async with asyncio.timeout(60):
        await asyncio.sleep(60)


async def waits_for_others() -> None:
    await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))


async def waits_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))


async def waits_for_a_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


@pytest.mark.parametrize(
    "work", [waits_for_a_future, waits_within_a_timeout, waits_for_others, waits_in_a_group, waits_for_a_lock]
)
def test_work_is_cancelled_wherever_it_waits(work: Callable[[], Any]) -> None:
    async def test() -> None:
        connection = Connection()
        asyncio.get_running_loop().call_later(0.005, connection.leave)
        assert await unless_client_leaves(connection.receive, work()) is False

    run(test)


def test_clean_up_that_waits_is_waited_for() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await steps(3)
            seen.append("clean")

    async def test() -> None:
        connection = Connection("http.disconnect")
        assert await unless_client_leaves(connection.receive, work()) is False
        assert seen == ["clean"]

    run(test)


def test_the_task_can_go_on_after_a_client_has_left() -> None:
    async def test() -> None:
        for _ in range(3):
            assert await unless_client_leaves(Connection("http.disconnect").receive, steps(9)) is False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)

    run(test)


def test_a_cancellation_from_outside_goes_on_outwards() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("clean")

    async def test() -> None:
        request = asyncio.create_task(unless_client_leaves(Connection().receive, work()))
        await steps(3)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert request.cancelled()
        assert seen == ["clean"]

    run(test)


def test_a_cancellation_of_what_work_waits_for_goes_on_outwards() -> None:
    async def test() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)

        async def work() -> None:
            await future

        with pytest.raises(asyncio.CancelledError):
            await unless_client_leaves(Connection().receive, work())

    run(test)


def test_a_deadline_around_it_holds() -> None:
    async def test() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await unless_client_leaves(Connection().receive, asyncio.sleep(60))

    run(test)


@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_cancellation_from_outside_is_not_lost_where_the_client_leaves_at_that_moment(leaves_first: bool) -> None:
    async def test() -> None:
        connection = Connection()
        request = asyncio.create_task(unless_client_leaves(connection.receive, asyncio.sleep(60)))
        await steps(3)
        if leaves_first:
            connection.leave()
            await steps(2)
        request.cancel()
        if not leaves_first:
            connection.leave()
        with pytest.raises(asyncio.CancelledError):
            await request

    run(test)


def test_what_clean_up_raises_is_not_lost() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("in the clean-up")

    async def test() -> None:
        async def request() -> None:
            await unless_client_leaves(Connection("http.disconnect").receive, work())

        with pytest.raises(ValueError, match="in the clean-up"):
            await asyncio.create_task(request())

    run(test)


def test_an_error_of_the_server_that_tells_of_departures_ends_the_work_and_is_not_lost() -> None:
    async def broken() -> dict[str, Any]:
        raise OSError("the server's own")

    async def test() -> None:
        with pytest.raises(OSError, match="the server's own"):
            await unless_client_leaves(broken, asyncio.sleep(60))

    run(test)


def test_a_thousand_departures_leave_no_task() -> None:
    async def test() -> None:
        connections = [Connection() for _ in range(1000)]
        requests = [asyncio.create_task(unless_client_leaves(it.receive, asyncio.sleep(60))) for it in connections]
        await steps(3)
        for connection in connections:
            connection.leave()
        assert await asyncio.gather(*requests) == [False] * 1000

    run(test)
