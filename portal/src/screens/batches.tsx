import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, Failure, type Schemas } from "../api.ts";
import { onDrafts } from "../draft.ts";
import { counted, dollars, number, percent, shortDollars, titled } from "../format.ts";
import { type JobRow, type ReportRow, watch } from "../live.ts";
import { throttled, useLoad } from "../load.ts";
import { announce } from "../parts/announce.tsx";
import { Bar, doneShare, isOpen } from "../parts/bar.tsx";
import { CopyAs, literal, where } from "../parts/copy.tsx";
import { Search } from "../parts/form.tsx";
import { List, PAGE, usePages } from "../parts/list.tsx";
import { Time } from "../parts/misc.tsx";
import { href, query, setQuery } from "../router.ts";
import { can, session } from "../session.ts";
import { Drafts } from "./drafts.tsx";
import { waitOf } from "./waiting.tsx";

type Job = Schemas["Job"];
type Report = Schemas["Report"];
type Status = Schemas["JobStatus"];

const FILTERS: [Status | "", string][] = [
  ["", "All"],
  ["processing", "In progress"],
  ["pending", "Not started"],
  ["completed", "Completed"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
];
const POLL_SECONDS = 5;
const MOST_REPORT_PAGES = 5;

export function Batches() {
  const given = query.value.get("status") ?? "";
  const showsDrafts = given === "drafts";
  const status = showsDrafts ? "" : given as Status | "";
  const search = query.value.get("search") ?? "";
  const label = query.value.get("label") ?? "";
  const pages = usePages(async (page, signal) => {
    const { jobs: rows, total, next_cursor } = await call("get", "/batch-lookups", {
      query: { ...page, ...filters(status, search) },
      signal,
    });
    if (can("reports:read")) bringReports(rows, signal).catch(() => {});
    return { rows, total, next_cursor };
  }, [status, search, label]);
  const counts = useLoad((signal) => count(search, signal), [search, label]);
  const reports = useSignal(new Map<string, Report>());

  // A report is created with its batch. A cell stays empty until its report is loaded, or permanently if many lie between two batches.
  async function bringReports(jobs: Job[], signal?: AbortSignal) {
    const times = jobs.map((job) => Date.parse(job.created_at));
    if (times.length === 0) return;
    const range = {
      created_from: new Date(Math.min(...times) - 1).toISOString(),
      created_before: new Date(Math.max(...times) + 2).toISOString(),
    };
    let cursor: string | undefined;
    for (let asked = 0; asked < MOST_REPORT_PAGES; asked++) {
      const page = await call("get", "/incentive-reports", { query: { ...range, limit: 200, cursor }, signal });
      reports.value = new Map([...reports.peek(), ...page.reports.map((report) => [report.id, report] as const)]);
      if (!page.next_cursor) return;
      cursor = page.next_cursor;
    }
  }

  useEffect(() => {
    const reload = throttled(() => {
      pages.refresh();
      counts.reload();
    }, 2000);
    // A second later, because a batch reaches its limit of lookups when the next ones would begin.
    let later: ReturnType<typeof setTimeout>;
    const refresh = throttled(() => (later = setTimeout(pages.refresh, 1000)), POLL_SECONDS * 1000);
    const known = (row: JobRow) =>
      pages.data.peek()?.some(({ rows }) => rows.some((job) => job.id === row.id && job.status === row.status));
    const patchReport = (row: ReportRow) => {
      const report = reports.peek().get(row.id);
      if (report) reports.value = new Map(reports.peek()).set(row.id, { ...report, ...sums(row) });
    };
    const stop = watch([
      {
        table: "batch_lookup_jobs",
        filter: `organization_id=eq.${session.peek()!.organization!.id}`,
        onChange: (row) => {
          if (!row || !known(row)) return reload();
          pages.replace((job) => job.id === row.id ? { ...job, ...changed(row) } : job);
          refresh();
        },
      },
      ...(can("reports:read")
        ? [{ table: "incentive_reports" as const, onChange: (row: ReportRow | null) => row && patchReport(row) }]
        : []),
    ], async (signal) => {
      const fresh = await count(search, signal);
      counts.set(() => fresh);
      pages.refresh();
      return POLL_SECONDS;
    });
    const stopCounting = onDrafts(counts.reload);
    return () => {
      stop();
      stopCounting();
      reload.cancel();
      refresh.cancel();
      clearTimeout(later);
    };
  }, [status, search, label]);

  const loaded = pages.data.value;
  const shown = loaded?.flatMap(({ rows }) => rows) ?? [];
  const held = shown.filter((job) => waitOf(job) && !job.waiting_until).length;
  const running = shown.filter(isOpen).length - held;
  const isFiltered = Boolean(status || search || label);
  const isOutdated = pages.outdated.value;
  useEffect(() => {
    // With a filter, others may be running.
    if (!loaded || isFiltered || isOutdated) return;
    const parts = [
      running && `${counted(running, "batch is", "batches are")} running`,
      held && `${counted(held, "batch waits", "batches wait")} for you`,
    ];
    announce(parts.filter(Boolean).join(", ") || "No batch is running");
  }, [running, held, Boolean(loaded), isFiltered, isOutdated]);

  const data = counts.data.value;
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
                status && `status = ${literal(status)}`,
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
              {title} {data && <span class="count">{number(data[name] ?? 0)}</span>}
            </a>
          ))}
          <a href={href(["batches"], { status: "drafts" })} aria-current={showsDrafts ? "true" : undefined}>
            Drafts {data && <span class="count">{number(data.drafts ?? 0)}</span>}
          </a>
        </div>
        {label && (
          <button type="button" onClick={() => setQuery({ label: null })}>
            {label} ×<span class="unseen">Show all labels</span>
          </button>
        )}
        {!showsDrafts && <Search label="Search names" value={search} onSearch={(text) => setQuery({ search: text })} />}
      </div>
      {showsDrafts ? <Drafts empty="No drafts. An uploaded file is a draft until you start it." /> : (
        <List
          pages={pages}
          columns={["Batch", "Progress", "#Failed", "#Incentives", "Uploaded"]}
          class="batches"
          empty={<Empty filtered={isFiltered} />}
          row={(job) => row(job, reports.value.get(job.report_id))}
        />
      )}
    </>
  );
}

function row(job: Job, report: Report | undefined) {
  return (
    <tr key={job.id}>
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
          <span class={`status ${job.status}`}>{isOpen(job) ? percent(doneShare(job)) : titled(STATUS_TITLES, job.status)}</span>
        </span>
        {waitOf(job) && <small class="warn">{waitOf(job).replace("waits", "Waits")}.</small>}
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
      <p>
        No batch is like that. <a href={href(["batches"])}>Show all</a>
      </p>
    );
  }
  return (
    <section>
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

/** null: deleted. */
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

/** How many batches have each status, and how many drafts there are. */
async function count(search: string, signal: AbortSignal): Promise<Record<string, number>> {
  const [drafts, ...counts] = await Promise.all([
    call("get", "/uploads", { query: { status: "draft", limit: 1 }, signal }),
    ...FILTERS.map(async ([name]) => {
      const { total } = await call("get", "/batch-lookups", { query: { limit: 1, ...filters(name, search) }, signal });
      return [name, total] as const;
    }),
  ]);
  return { ...Object.fromEntries(counts), drafts: drafts.total };
}

/** The columns of a row that a job in the list has, too. */
function changed({ status, processed_items, failed_items, started_at, completed_at }: Partial<Job>): Partial<Job> {
  return { status, processed_items, failed_items, started_at, completed_at } as Partial<Job>;
}

function sums(
  { total_incentive_value, eligible_sites, total_sites }: { total_incentive_value: number; eligible_sites: number; total_sites: number },
) {
  return { total_incentive_value: Number(total_incentive_value), eligible_sites, total_sites };
}
