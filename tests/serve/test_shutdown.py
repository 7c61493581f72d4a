from __future__ import annotations

import asyncio
import threading

from serve.shutdown import Shutdown


async def test_who_waits_goes_on_whatever_thread_begins_it():
    shutdown = Shutdown()
    waiting = [asyncio.create_task(shutdown.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not shutdown.has_begun
    thread = threading.Thread(target=shutdown.begin)
    thread.start()
    await asyncio.gather(*waiting)
    thread.join()
    assert shutdown.has_begun
    await shutdown.wait()


async def test_who_has_left_is_not_woken():
    shutdown = Shutdown()
    waiting = asyncio.create_task(shutdown.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    shutdown.begin()
    assert waiting.cancelled()
