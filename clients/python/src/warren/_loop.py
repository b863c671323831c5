"""The thread with the event loop of the blocking API."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()  # guards what follows
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def _running() -> asyncio.AbstractEventLoop:
    """The loop. All clients share one, which lives as long as the process: gRPC has one source of events for all loops, and
    wakes each of them for all."""
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="warren", daemon=True)
            _thread.start()
        return _loop


def run(f: Callable[..., Coroutine[Any, Any, T]], *args: Any, timeout: float | None = None) -> T:
    """Runs a coroutine function in the loop and waits for its end; raises TimeoutError after so many seconds."""
    loop = _running()
    if threading.current_thread() is _thread:
        raise RuntimeError("the blocking API cannot be used in callbacks of outcomes")
    future = asyncio.run_coroutine_threadsafe(_within(timeout, f, args), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # of an interrupt; it is over otherwise
        raise


async def _within(timeout: float | None, f: Callable[..., Coroutine[Any, Any, T]], args: Any) -> T:
    # In the loop, so that what has happened and what the caller is told agree.
    async with asyncio.timeout(timeout):
        return await f(*args)
