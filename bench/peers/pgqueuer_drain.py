"""PgQueuer on asyncpg: DATABASE_URL, UPSTREAM_URL, ITEMS and CONCURRENCY in, {"enqueue_seconds", "drain_seconds"} out."""

import json
import os
import time

import aiohttp
import asyncpg
import uvloop
from pgqueuer import AsyncpgPoolDriver, Job, PgQueuer, Queries

ITEMS = int(os.environ["ITEMS"])
CONCURRENCY = int(os.environ["CONCURRENCY"])
BATCH = 500


async def main() -> None:
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], max_size=20) as pool, aiohttp.ClientSession(connector=connector) as http:
        await pool.execute("create table bench_results (item integer primary key, result jsonb not null)")
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        started = time.perf_counter()
        await queries.enqueue(["lookup"] * ITEMS, [str(item).encode() for item in range(ITEMS)], [0] * ITEMS)
        enqueue_seconds = time.perf_counter() - started

        queue = PgQueuer(driver)
        done = 0

        @queue.entrypoint("lookup")
        async def lookup(job: Job) -> None:
            nonlocal done
            item = int(job.payload or b"0")
            async with http.post(os.environ["UPSTREAM_URL"], json={"reference_id": f"site-{item}"}) as response:
                result = await response.text()
            await pool.execute("insert into bench_results values ($1, $2)", item, result)
            done += 1
            if done == ITEMS:
                queue.shutdown.set()

        started = time.perf_counter()
        await queue.run(batch_size=BATCH, max_concurrent_tasks=BATCH * 2)
        print(json.dumps({"enqueue_seconds": enqueue_seconds, "drain_seconds": time.perf_counter() - started}))


uvloop.run(main())
