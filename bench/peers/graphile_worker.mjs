// graphile-worker: DATABASE_URL, UPSTREAM_URL, ITEMS and CONCURRENCY in, {"enqueue_seconds", "drain_seconds"} out.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { Pool as HttpPool } from "undici";

const { DATABASE_URL: connectionString, UPSTREAM_URL } = process.env;
const items = Number(process.env.ITEMS);
const concurrency = Number(process.env.CONCURRENCY);
const url = new URL(UPSTREAM_URL);
const pool = new pg.Pool({ connectionString, max: 20 });
const http = new HttpPool(url.origin, { connections: concurrency });
const seconds = (since) => (performance.now() - since) / 1000;

await pool.query("create table bench_results (item integer primary key, result jsonb not null)");
const utils = await makeWorkerUtils({ pgPool: pool });
await utils.migrate();
let started = performance.now();
await pool.query(
  `select graphile_worker.add_jobs(array(
     select json_populate_record(null::graphile_worker.job_spec, json_build_object('identifier', 'lookup', 'payload', json_build_object('item', n)))
       from generate_series(1, $1) n))`,
  [items],
);
const enqueue_seconds = seconds(started);

let done = 0;
let finish;
const finished = new Promise((resolve) => (finish = resolve));
const lookup = async ({ item }) => {
  const { body } = await http.request({
    path: url.pathname,
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ reference_id: `site-${item}` }),
  });
  await pool.query("insert into bench_results values ($1, $2)", [item, await body.text()]);
  if (++done === items) finish();
};
started = performance.now();
const runner = await run({
  pgPool: pool,
  taskList: { lookup },
  preset: { worker: { concurrentJobs: concurrency, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  noHandleSignals: true,
  logger: new Logger(() => (level, message) => level === "error" && console.error(message)),
});
await finished;
await runner.stop();
console.log(JSON.stringify({ enqueue_seconds, drain_seconds: seconds(started) }));
process.exit(0);
