import { useEffect } from "preact/hooks";
import { call, Failure, type Schemas } from "../api.ts";
import { counted, dollars, number, percent, shortDollars } from "../format.ts";
import { type ReportRow, watch } from "../live.ts";
import { throttled, useLoad } from "../load.ts";
import { announce } from "../parts/announce.tsx";
import { Bar, doneShare, isOpen } from "../parts/bar.tsx";
import { CopyAs, literal, where } from "../parts/copy.tsx";
import { Search } from "../parts/form.tsx";
import { Loading, Problem, Time } from "../parts/misc.tsx";
import { href, query, setQuery } from "../router.ts";
import { can, session } from "../session.ts";
import { Drafts } from "./drafts.tsx";

type Job = Schemas["Job"];
type Status = Schemas["JobStatus"];

const FILTERS: [Status | "", string][] = [
  ["", "All"],
  ["processing", "In progress"],
  ["pending", "Not started"],
  ["completed", "Completed"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
];
const PAGE = 50;
const POLL_SECONDS = 5;

interface Listed {
  jobs: Job[];
  next: string | null;
  counts: Record<string, number>;
  drafts: number;
  reports: Map<string, Schemas["Report"]>;
}

export function Batches() {
  const given = query.value.get("status") ?? "";
  const showsDrafts = given === "drafts";
  const status = showsDrafts ? "" : given as Status | "";
  const search = query.value.get("search") ?? "";
  const label = query.value.get("label") ?? "";
  const list = useLoad((signal) => load(status, search, signal), [status, search, label]);

  useEffect(() => {
    const reload = throttled(list.reload, 2000);
    const ended = new AbortController();
    const refresh = throttled(() => learnWhatRowsLack(ended.signal).catch(() => {}), POLL_SECONDS * 1000);
    const stop = watch([
      {
        table: "batch_lookup_jobs",
        filter: `organization_id=eq.${session.peek()!.organization!.id}`,
        onChange: (row) => row && known(row) ? (patch(row), refresh()) : reload(),
      },
      ...(can("reports:read")
        ? [{ table: "incentive_reports" as const, onChange: (row: ReportRow | null) => row && patchReport(row) }]
        : []),
    ], (signal) => load(status, search, signal).then((fresh) => (list.set(() => fresh), POLL_SECONDS)));
    const known = (row: { id: string; status: Status }) =>
      list.data.peek()?.jobs.some((job) => job.id === row.id && job.status === row.status);
    const patch = (row: Partial<Job> & { id: string }) =>
      list.set((data) => ({ ...data, jobs: data.jobs.map((job) => job.id === row.id ? { ...job, ...changed(row) } : job) }));
    const patchReport = (row: ReportRow) =>
      list.set((data) => {
        const report = data.reports.get(row.id);
        return report ? { ...data, reports: new Map(data.reports).set(row.id, { ...report, ...sums(row) }) } : data;
      });
    /** A second later, because a batch comes to its limit of lookups when the next ones would begin. */
    async function learnWhatRowsLack(signal: AbortSignal) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      const { jobs } = await page(status, search, signal);
      const fresh = new Map(jobs.map(({ id, item_counts, upstream, waiting_for }) => [id, { item_counts, upstream, waiting_for }]));
      list.set((data) => ({ ...data, jobs: data.jobs.map((job) => ({ ...job, ...fresh.get(job.id) })) }));
    }
    return () => {
      stop();
      reload.cancel();
      refresh.cancel();
      ended.abort();
    };
  }, [status, search, label]);

  const jobs = list.data.value?.jobs;
  const shown = jobs ?? [];
  const held = shown.filter(waits).length;
  const running = shown.filter(isOpen).length - held;
  useEffect(() => {
    if (!jobs) return;
    const parts = [
      running && `${counted(running, "batch is", "batches are")} running`,
      held && `${counted(held, "batch waits", "batches wait")} for you`,
    ];
    announce(parts.filter(Boolean).join(", ") || "No batch is running");
  }, [running, held, Boolean(jobs)]);

  async function more() {
    const { jobs, next_cursor } = await page(status, search, undefined, list.data.peek()!.next!);
    list.set((data) => ({ ...data, jobs: [...data.jobs, ...jobs], next: next_cursor }));
  }

  const data = list.data.value;
  const [key = "", value = ""] = label.split(/:(.*)/s);
  return (
    <>
      <div class="heading">
        <h1>Batches</h1>
        <CopyAs
          path={showsDrafts ? "uploads?status=draft" : `batch-lookups?limit=${PAGE}&${new URLSearchParams({
            ...(status && { status }),
            ...(search && { name: search }),
            ...(label && { label }),
          })}`}
          sql={`select * from api.${
            showsDrafts ? "uploads where status = 'draft'" : `jobs${
              where(
                status && `status = '${status}'`,
                search && `strpos(lower(name), lower(${literal(search)})) > 0`,
                label && `labels ->> ${literal(key)} = ${literal(value)}`,
              )
            }`
          } order by created_at desc limit ${PAGE};`}
        />
        {can("jobs:write") && <a class="button primary" href={href(["upload"])}>New upload</a>}
      </div>
      <div class="toolbar">
        <div class="tabs" role="group" aria-label="Status">
          {FILTERS.map(([name, title]) => (
            <a key={name} href={href(["batches"], { status: name, search, label })} aria-current={name === given ? "true" : undefined}>
              {title} {data && <span class="count">{number(data.counts[name] ?? 0)}</span>}
            </a>
          ))}
          <a href={href(["batches"], { status: "drafts" })} aria-current={showsDrafts ? "true" : undefined}>
            Drafts {data && <span class="count">{number(data.drafts)}</span>}
          </a>
        </div>
        {label && (
          <button type="button" onClick={() => setQuery({ label: null })}>
            {label} ×<span class="unseen">Show all labels</span>
          </button>
        )}
        {!showsDrafts && <Search label="Search names" value={search} onSearch={(text) => setQuery({ search: text })} />}
      </div>
      <Problem error={list.error.value} onRetry={list.reload} />
      {!data && !list.error.value && <Loading />}
      {showsDrafts && <Drafts empty="No drafts. A file that is uploaded is one until it is started." />}
      {!showsDrafts && data && shown.length === 0 && <Empty filtered={Boolean(status || search || label)} />}
      {!showsDrafts && shown.length > 0 && (
        <table class="rows batches">
          <thead>
            <tr>
              <th>Batch</th>
              <th>Progress</th>
              <th class="number">Failed</th>
              <th class="number">Incentives</th>
              <th>Uploaded</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((job) => <Row key={job.id} job={job} report={data!.reports.get(job.report_id)} />)}
          </tbody>
        </table>
      )}
      {!showsDrafts && data?.next && <button type="button" class="more" onClick={more}>Show more</button>}
    </>
  );
}

/** Whether a batch that has not ended waits for its user. */
function waits(job: Job): boolean {
  return isOpen(job) && job.waiting_for !== null;
}

function Row({ job, report }: { job: Job; report: Schemas["Report"] | undefined }) {
  return (
    <tr>
      <td>
        <a class="main-link" href={href(["batches", job.id])}>{nameOf(job)}</a>
        <small>
          {counted(job.total_items, "site")}
          {Object.entries(job.labels).map(([key, value]) => (
            <a key={key} class="label" href={href(["batches"], { label: `${key}:${value}` })}>{key}: {value}</a>
          ))}
        </small>
      </td>
      <td>
        <span class="progress">
          <Bar job={job} inFlight={isOpen(job) ? job.item_counts.processing : 0} />
          <span class={`status ${job.status}`}>{isOpen(job) ? percent(doneShare(job)) : STATUS_TITLES[job.status]}</span>
        </span>
        {waits(job) && <small class="warn">Waits for you.</small>}
        {job.upstream.unavailable_since && <small class="warn">The incentives API does not answer; items wait.</small>}
      </td>
      <td class="number" data-label="Failed">{job.failed_items > 0 ? <span class="alert">{number(job.failed_items)}</span> : "0"}</td>
      <td class="number" data-label="Incentives" title={report && dollars(report.total_incentive_value)}>
        {report ? shortDollars(report.total_incentive_value) : ""}
      </td>
      <td data-label="Uploaded">
        <Time at={job.created_at} />
      </td>
    </tr>
  );
}

export const STATUS_TITLES: Record<Status, string> = {
  pending: "Not started",
  processing: "In progress",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
};

function Empty({ filtered }: { filtered: boolean }) {
  if (filtered) {
    return (
      <p class="empty">
        No batch is like that. <a href={href(["batches"])}>Show all</a>
      </p>
    );
  }
  return (
    <section class="empty">
      <h2>No batches yet</h2>
      <p>Upload a file with addresses, and see what incentives each site can get.</p>
      {can("jobs:write") && <a class="button primary" href={href(["upload"])}>New upload</a>}
    </section>
  );
}

/** The name that the batch was given, or that its report got. */
export function nameOf({ name, created_at, total_items }: Pick<Job, "name" | "created_at" | "total_items">): string {
  return name ?? `Batch Lookup - ${created_at.slice(0, 10)} (${total_items} sites)`;
}

/** null: it has been deleted. */
export function findBatch(id: string, signal?: AbortSignal): Promise<Schemas["JobDetails"] | null> {
  return call("get", "/batch-lookups/{job_id}", { path: { job_id: id }, signal }).catch((error) => {
    if (error instanceof Failure && error.status === 404) return null;
    throw error;
  });
}

function filters(status: Status | "", name: string) {
  const label = query.peek().get("label");
  return { ...(status && { status }), ...(name && { name }), ...(label && { label: [label] }) };
}

/** A page of the list; without a cursor the first one. */
function page(status: Status | "", search: string, signal?: AbortSignal, cursor?: string) {
  return call("get", "/batch-lookups", { query: { ...(cursor && { cursor }), limit: PAGE, ...filters(status, search) }, signal });
}

async function load(status: Status | "", search: string, signal: AbortSignal): Promise<Listed> {
  const [{ jobs, next_cursor }, reports, drafts, ...counts] = await Promise.all([
    page(status, search, signal),
    can("reports:read") ? call("get", "/incentive-reports", { query: { limit: 200 }, signal }) : undefined,
    call("get", "/uploads", { query: { status: "draft", limit: 1 }, signal }),
    ...FILTERS.map(async ([name]) => {
      const { total } = await call("get", "/batch-lookups", { query: { limit: 1, ...filters(name, search) }, signal });
      return [name, total] as const;
    }),
  ]);
  return {
    jobs,
    next: next_cursor,
    counts: Object.fromEntries(counts),
    drafts: drafts.total,
    reports: new Map(reports?.reports.map((report) => [report.id, report])),
  };
}

/** The columns of a row that a job of the list has, too. */
function changed({ status, processed_items, failed_items, started_at, completed_at }: Partial<Job>): Partial<Job> {
  return { status, processed_items, failed_items, started_at, completed_at } as Partial<Job>;
}

function sums(
  { total_incentive_value, eligible_sites, total_sites }: { total_incentive_value: number; eligible_sites: number; total_sites: number },
) {
  return { total_incentive_value: Number(total_incentive_value), eligible_sites, total_sites };
}
