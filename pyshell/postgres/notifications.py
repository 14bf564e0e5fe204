"""Hears from the database that there may be work. A hint only: claims also poll."""

import asyncio
import logging
from typing import Final

import psycopg
from psycopg import sql

from pyshell.postgres.connections import connect

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 60.0
RECONNECT_SECONDS: Final = 1.0


async def listen(database_url: str, application_name: str, demand: asyncio.Event, channel: str = "batch_lookups_ready") -> None:
    """Set `demand` at every notification on the channel, and whenever some may have been missed, until cancelled."""
    while True:
        try:
            async with await connect(database_url, application_name) as connection:
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                demand.set()
                while True:
                    async for _ in connection.notifies(timeout=HEARTBEAT_SECONDS):
                        demand.set()
                    # An empty query: is anybody still there?
                    async with asyncio.timeout(10):
                        await connection.execute("")
        except (psycopg.Error, TimeoutError) as error:
            logger.warning("cannot listen for new work, polling until that works again: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)
