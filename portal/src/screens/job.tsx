import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, Failure, newKey, type Schemas, send, whole } from "../api.ts";
import { counted, decimal, duration, isolated, number, percent, shortTime, titled } from "../format.ts";
import { watch } from "../live.ts";
import { type Loaded, now, throttled, useLoad } from "../load.ts";
import { announce, notify } from "../parts/announce.tsx";
import { Bar, doneShare, isOpen } from "../parts/bar.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { download } from "../parts/download.ts";
import { Form } from "../parts/form.tsx";
import { Menu } from "../parts/menu.tsx";
import { NamedHeading, NotYet, Problem, Time } from "../parts/misc.tsx";
import { href, setQuery, wayFromHere } from "../router.ts";
import { can } from "../session.ts";
import { nameOf, STATUS_TITLES } from "./batches.tsx";
import { Waiting, waitOf } from "./waiting.tsx";
import { Items } from "./items.tsx";

type Job = Schemas["JobDetails"];

export function JobScreen({ id }: { id: string }) {
  const job = useLoad((signal) => call("get", "/batch-lookups/{job_id}", { path: { job_id: id }, signal }), [id]);
  // Changes with the counts of the job, so that the items follow.
  const version = useSignal(0);

  useEffect(() => {
    const reload = throttled(() => {
      job.reload();
      version.value++;
    }, 1000);
    let etag = "";
    const stop = watch([{ table: "batch_lookup_jobs", filter: `id=eq.${id}`, onChange: reload }], async (signal) => {
      const response = await send("get", "/batch-lookups/{job_id}", {
        path: { job_id: id },
        query: { wait: etag ? 30 : 0 },
        headers: etag ? { "if-none-match": etag } : {},
        signal,
      }).catch((error) => {
        // The next request is to return as soon as the service is back.
        etag = "";
        throw error;
      });
      etag = response.headers.get("etag") ?? "";
      if (response.status === 304) return;
      const fresh: Job = await whole(response.json(), signal);
      job.set(() => fresh);
      version.value++;
      if (!isOpen(fresh)) return 30;
    });
    return () => {
      stop();
      reload.cancel();
    };
  }, [id]);

  const data = job.data.value;
  useEffect(() => {
    if (data) announce(sentence(data));
  }, [data?.processed_items, data?.status, data?.waiting_for]);
  if (!data) return <NotYet title="Batch" loaded={job} />;
  return (
    <>
      <Heading job={data} reload={job.reload} />
      <Problem error={job.error.value} onRetry={job.retry} />
      <Banner job={data} />
      <Waiting job={data} reload={job.reload} />
      <ProgressCard job={data} />
      <Errors job={data} />
      <Items job={data} version={version.value} />
    </>
  );
}

function Heading({ job, reload }: { job: Job; reload: Loaded<Job>["reload"] }) {
  const asking = useSignal<"cancel" | "delete" | null>(null);
  const open = isOpen(job);
  const path = { job_id: job.id };
  const results = (format: Schemas["ResultsFormat"], query: { status?: Schemas["ItemStatus"] } = {}) => () =>
    download("/batch-lookups/{job_id}/results", { path, query: { format, ...query } }, `${nameOf(job)}.${format}`);

  const close = () => (asking.value = null);

  async function cancel() {
    await call("post", "/batch-lookups/{job_id}/cancel", { path });
    notify("The batch is cancelled");
    close();
    reload();
  }
  async function remove() {
    const go = wayFromHere();
    await call("delete", "/batch-lookups/{job_id}", { path });
    notify("The batch is deleted");
    go(["batches"]);
  }

  return (
    <>
      <div class="heading">
        <div>
          <NamedHeading name={nameOf(job)} />
          <p class="soft">
            {counted(job.total_items, "site")}, uploaded <Time at={job.created_at} />
            {job.retry_of_job_id && (
              <>
                , retries failed sites of <a href={href(["batches", job.retry_of_job_id])}>another batch</a>
              </>
            )}
          </p>
        </div>
        <CopyAs
          path={`batch-lookups/${job.id}`}
          sql={`select * from api.items where job_id = '${job.id}' order by position;`}
        />
        <Menu
          title="Results…"
          choices={[
            { title: "Excel", run: results("xlsx") },
            { title: "CSV", run: results("csv") },
            { title: "NDJSON", run: results("ndjson") },
            ...(job.failed_items ? [{ title: "Failed sites as CSV", run: results("csv", { status: "failed" }) }] : []),
          ]}
        />
        {open && can("jobs:write") && <button type="button" class="danger" onClick={() => (asking.value = "cancel")}>Cancel…</button>}
        {!open && can("jobs:write") && <button type="button" class="quiet" onClick={() => (asking.value = "delete")}>Delete…</button>}
        {can("reports:read") && <a class="button primary" href={href(["reports", job.report_id])}>Report</a>}
      </div>
      {asking.value === "cancel" && (
        <Dialog title={`Cancel ${isolated(nameOf(job))}?`} onClose={close}>
          <Form submit="Cancel the batch" onSubmit={cancel} onCancel={close} danger>
            <p>
              {counted(job.item_counts.pending, "site")} will not be looked up. {job.item_counts.processing > 0 &&
                `${counted(job.item_counts.processing, "lookup")} in flight will still finish. `}
              What has been looked up stays in the results and in the report.
            </p>
          </Form>
        </Dialog>
      )}
      {asking.value === "delete" && (
        <Dialog title={`Delete ${isolated(nameOf(job))}?`} onClose={close}>
          <Form submit="Delete the batch" onSubmit={remove} onCancel={close} danger>
            <p>Its sites and their results will be permanently deleted. The report stays.</p>
          </Form>
        </Dialog>
      )}
    </>
  );
}

/** What holds everything up, worded for somebody who waits. */
function Banner({ job }: { job: Job }) {
  const { unavailable_since, paused_until } = job.upstream;
  if (unavailable_since) {
    return (
      <p class="banner" role="status">
        <strong>The incentives API has not answered since {shortTime(unavailable_since)}.</strong> Nothing is lost; items wait.
      </p>
    );
  }
  if (paused_until && Date.parse(paused_until) > now.value) {
    return (
      <p class="banner" role="status">
        Lookups pause until {shortTime(paused_until)}. Nothing is lost; items wait.
      </p>
    );
  }
  return null;
}

function ProgressCard({ job }: { job: Job }) {
  const { pending, processing, completed, failed } = job.item_counts;
  const open = isOpen(job);
  return (
    <section class="card progress-card" aria-label="Progress">
      <div class="progress-line">
        <strong class="big">{open ? percent(doneShare(job)) : titled(STATUS_TITLES, job.status)}</strong>
        <span class="soft">{timing(job)}</span>
      </div>
      <Bar job={job} inFlight={open ? processing : 0} />
      <ul class="legend">
        <li>
          <i class="completed" />completed <b>{number(completed)}</b>
        </li>
        <li>
          <i class="failed" />failed <b>{number(failed)}</b>
        </li>
        {open && (
          <li>
            <i class="flight" />in flight <b>{number(processing)}</b>
          </li>
        )}
        {(open || pending > 0) && (
          <li>
            <i />
            {open ? "waiting" : "not looked up"} <b>{number(pending)}</b>
          </li>
        )}
      </ul>
    </section>
  );
}

function timing(job: Job): string {
  if (!isOpen(job)) {
    if (!job.started_at || !job.completed_at) return "";
    return `took ${duration((Date.parse(job.completed_at) - Date.parse(job.started_at)) / 1000)}`;
  }
  if (job.processed_items === job.total_items) return "closing the report";
  if (job.waiting_for) return waitOf(job);
  const parts = job.rate ? [`${decimal(job.rate)} a second`] : [];
  if (job.estimated_completion_at) {
    const left = (Date.parse(job.estimated_completion_at) - now.value) / 1000;
    parts.push(`${duration(left)} left, done at ${shortTime(job.estimated_completion_at)}`);
  }
  return parts.join(" · ") || "not started yet";
}

/** By code, as in docs/errors.md. An operator may have added others. */
const FAILURES: Record<string, string> = {
  invalid_response: "The answer could not be read",
  job_cancelled: "Cancelled before the lookup",
  lease_expired: "Started, but never came to an end",
  lookup_limit_reached: "The lookups allowed were used up",
  not_found: "Nothing found for the address",
  response_too_large: "The answer was too large",
  upstream_error: "A fault of the incentives API",
  upstream_rate_limited: "The incentives API refused so many requests",
  upstream_redirected: "The incentives API has moved",
  upstream_rejected: "The incentives API refused the request",
  upstream_timeout: "The incentives API did not answer in time",
  upstream_unauthorized: "The incentives API refused our credentials",
  upstream_unavailable: "The incentives API was not available",
  upstream_unreachable: "The incentives API could not be reached",
};

/** Up to this many sites are retried without confirmation. */
const FEW = 10;

function Errors({ job }: { job: Job }) {
  const failure = useSignal<Error | undefined>(undefined);
  const asking = useSignal<{ code?: string; count: number } | null>(null);
  const busy = useSignal(false);
  /** Idempotency keys of retries without a response, by what they retry: sent again with its key, none creates a second batch. */
  const keys = useRef(new Map<string, string>());
  const codes = Object.entries(job.errors_by_code).sort(([, one], [, other]) => other - one);
  if (codes.length === 0) return null;

  async function retry(code?: string) {
    const go = wayFromHere();
    const what = `${job.id} ${code}`;
    const key = keys.current.get(what) ?? newKey();
    keys.current.set(what, key);
    try {
      const created = await call("post", "/batch-lookups/{job_id}/retry", {
        path: { job_id: job.id },
        query: code ? { error_code: code } : {},
        headers: { "idempotency-key": key },
      });
      keys.current.delete(what);
      notify(`${counted(created.total_items, "site")} will be looked up again`);
      go(["batches", created.job_id]);
    } catch (error) {
      const underWay = error instanceof Failure && error.code === "retry_in_progress" && error.body.job_id;
      if (!underWay) throw error;
      notify("They are retried already: this is the batch.");
      go(["batches", underWay]);
    }
  }
  /** Lookups cost money. */
  function retryOrAsk(count: number, code?: string) {
    failure.value = undefined;
    if (count > FEW) {
      asking.value = { code, count };
      return;
    }
    if (busy.peek()) return;
    busy.value = true;
    retry(code).catch((error) => (failure.value = error)).finally(() => (busy.value = false));
  }

  const mayRetry = can("jobs:write") && !isOpen(job);
  const question = asking.value;
  const close = () => (asking.value = null);
  return (
    <section class="card">
      <div class="heading">
        <h2>{counted(job.failed_items, "site")} failed</h2>
        {mayRetry && codes.length > 1 && <button type="button" onClick={() => retryOrAsk(job.failed_items)}>Retry all</button>}
      </div>
      <Problem error={failure.value} />
      <table class="rows errors">
        <thead class="unseen">
          <tr>
            <th>Reason</th>
            <th>Sites</th>
            <th>Actions</th>
          </tr>
        </thead>
        <tbody>
          {codes.map(([code, count]) => (
            <tr key={code}>
              <td>
                {FAILURES[code]} <code>{code}</code>
              </td>
              <td class="number">{number(count)}</td>
              <td class="row-actions">
                <button
                  type="button"
                  class="quiet"
                  aria-label={`Show sites that failed with ${code}`}
                  onClick={() => setQuery({ status: "failed", error: code })}
                >
                  Show
                </button>
                {mayRetry && (
                  <button
                    type="button"
                    class="quiet"
                    aria-label={`Retry sites that failed with ${code}`}
                    onClick={() => retryOrAsk(count, code)}
                  >
                    Retry
                  </button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {question && (
        <Dialog title={`Retry ${counted(question.count, "site")}?`} onClose={close}>
          <Form submit={`Retry ${counted(question.count, "site")}`} onSubmit={() => retry(question.code)} onCancel={close}>
            <p>
              All that failed{question.code && ` for this reason (${FAILURES[question.code] ?? question.code})`}{" "}
              are looked up again in a new batch. That takes up to {counted(question.count, "lookup")}.
            </p>
          </Form>
        </Dialog>
      )}
    </section>
  );
}

function sentence(job: Job): string {
  const failed = job.failed_items ? `, ${number(job.failed_items)} failed` : "";
  if (isOpen(job)) return `${percent(doneShare(job))} done${failed}${job.waiting_for ? `, ${waitOf(job)}` : ""}`;
  return `${titled(STATUS_TITLES, job.status)}: ${number(job.item_counts.completed)} of ${
    counted(job.total_items, "site")
  } looked up${failed}`;
}
