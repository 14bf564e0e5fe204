"""Procrastinate: DATABASE_URL, UPSTREAM_URL, ITEMS and CONCURRENCY in, {"enqueue_seconds", "drain_seconds"} out."""

import json
import os
import time

import aiohttp
import procrastinate
import uvloop
from psycopg_pool import AsyncConnectionPool

ITEMS = int(os.environ["ITEMS"])
CONCURRENCY = int(os.environ["CONCURRENCY"])
URL = os.environ["DATABASE_URL"]

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL, min_size=4, max_size=20))


async def main() -> None:
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with app.open_async(), AsyncConnectionPool(URL, max_size=20) as pool, aiohttp.ClientSession(connector=connector) as http:

        @app.task(name="lookup")
        async def lookup(item: int) -> None:
            async with http.post(os.environ["UPSTREAM_URL"], json={"reference_id": f"site-{item}"}) as response:
                result = await response.text()
            async with pool.connection() as connection:
                await connection.execute("insert into bench_results values (%s, %s)", (item, result))

        async with pool.connection() as connection:
            await connection.execute("create table bench_results (item integer primary key, result jsonb not null)")
        await app.schema_manager.apply_schema_async()
        started = time.perf_counter()
        await lookup.batch_defer_async(*[{"item": item} for item in range(ITEMS)])
        enqueue_seconds = time.perf_counter() - started
        started = time.perf_counter()
        await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False, listen_notify=False)
        print(json.dumps({"enqueue_seconds": enqueue_seconds, "drain_seconds": time.perf_counter() - started}))


uvloop.run(main())
