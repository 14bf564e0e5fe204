import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { counted, dollars, isolated, number, percent } from "../format.ts";
import { watch } from "../live.ts";
import { throttled, useLoad } from "../load.ts";
import { announce, notify } from "../parts/announce.tsx";
import { Bars, Donut, StateTiles, type Total } from "../parts/charts.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { List, usePages } from "../parts/list.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { download } from "../parts/download.ts";
import { Command, Form, Search, Secret } from "../parts/form.tsx";
import { Menu } from "../parts/menu.tsx";
import { Conditional, NamedHeading, NotYet, Problem, Time } from "../parts/misc.tsx";
import { secretShower } from "../parts/secret.tsx";
import { href, query, setQuery, wayFromHere } from "../router.ts";
import { can } from "../session.ts";
import { findBatch } from "./batches.tsx";
import { CompareWith } from "./difference.tsx";
import { oneLine } from "./items.tsx";

type Report = Schemas["Report"];
type Job = Schemas["JobDetails"];

const POLL_SECONDS = 5;
const SORTS: [Schemas["ReportSort"], string][] = [
  ["position", "In upload order"],
  ["-amount", "Most incentives first"],
  ["amount", "Least incentives first"],
  ["reference_id", "By reference"],
];

export function ReportScreen({ id }: { id: string }) {
  const summary = useLoad((signal) => load(id, signal), [id]);
  const version = useSignal(0);
  useEffect(() => {
    const reload = throttled(() => {
      summary.reload();
      version.value++;
    }, 2000);
    const stop = watch([{ table: "incentive_reports", filter: `id=eq.${id}`, onChange: reload }], async (signal) => {
      const fresh = await load(id, signal);
      summary.set(() => fresh);
      version.value++;
      return POLL_SECONDS;
    });
    return () => {
      stop();
      reload.cancel();
    };
  }, [id]);

  const data = summary.data.value;
  useEffect(() => {
    if (data) announce(`${dollars(data.report.total_incentive_value)} for ${counted(data.report.eligible_sites, "eligible site")}`);
  }, [data?.report.total_incentive_value, data?.report.eligible_sites]);
  if (!data) return <NotYet title="Report" loaded={summary} />;

  const { report, job } = data;
  const choose = (name: "state" | "program" | "utility") => (key: string | null) => setQuery({ [name]: key });
  return (
    <>
      <Heading report={report} job={job} onRename={(report) => summary.set((data) => ({ ...data, report }))} />
      <Problem error={summary.error.value} onRetry={summary.retry} />
      <Figures report={report} job={job} />
      {report.total_sites > 0 && (
        <>
          <p class="soft caveat">
            Estimates from published program rules, in US dollars. Programs change: confirm with the program before relying on an amount.
          </p>
          <div class="pair">
            <Donut eligible={report.eligible_sites} total={report.total_sites} />
            <StateTiles
              totals={data.by_state.map((row) => ({
                ...row,
                key: row.state_or_province_code,
                name: row.name ?? row.state_or_province_code ?? "Unknown",
              }))}
              chosen={query.value.get("state")}
              onChoose={choose("state")}
            />
          </div>
          <Bars title="Programs" totals={programs(data)} chosen={query.value.get("program")} onChoose={choose("program")} />
          <div class="halves">
            <Bars title="Utilities" totals={utilities(data)} chosen={query.value.get("utility")} onChoose={choose("utility")} />
            <Bars
              title="Devices"
              totals={data.by_device_category.map((row) => ({ ...row, key: null, name: row.name ?? row.key }))}
              chosen={null}
              onChoose={() => {}}
            />
          </div>
          <Sites summary={data} version={version.value} />
        </>
      )}
    </>
  );
}

/** The summary with its job; null: the job has been deleted, or is not accessible. */
async function load(id: string, signal: AbortSignal): Promise<Schemas["ReportSummary"] & { job: Job | null }> {
  const summary = await call("get", "/incentive-reports/{report_id}/summary", { path: { report_id: id }, signal });
  const { job_id } = summary.report;
  return { ...summary, job: job_id && can("jobs:read") ? await findBatch(job_id, signal) : null };
}

/** The outcome of an ended batch; it is only complete if most of its sites were looked up. */
function ending(report: Report, job: Job | null): string {
  if (job?.status === "cancelled") return "Cancelled";
  if (report.status === "error") return "No site could be looked up";
  if (!job) return "Ended";
  return job.failed_items * 2 > job.total_items ? "Ended without most of its sites" : "Complete";
}

function Heading({ report, job, onRename }: { report: Report; job: Job | null; onRename: (report: Report) => void }) {
  const asking = useSignal<"share" | "rename" | "delete" | null>(null);
  const ask = (what: typeof asking.value) => () => (asking.value = what);
  const close = ask(null);
  const path = { report_id: report.id };
  const filters = siteFilters();
  const some = { path, query: filters };
  const files = [
    ...(Object.keys(filters).length > 0
      ? [
        { title: "Filtered sites as Excel", run: () => download("/incentive-reports/{report_id}/xlsx", some, `${report.name}.xlsx`) },
        { title: "Filtered sites as CSV", run: () => download("/incentive-reports/{report_id}/csv", some, `${report.name}.csv`) },
      ]
      : []),
    { title: "Sites as Excel", run: () => download("/incentive-reports/{report_id}/xlsx", { path }, `${report.name}.xlsx`) },
    { title: "Sites as CSV", run: () => download("/incentive-reports/{report_id}/csv", { path }, `${report.name}.csv`) },
    { title: "A page to forward", run: () => download("/incentive-reports/{report_id}/html", { path }, `${report.name}.html`) },
  ];
  // The report of a running batch cannot be deleted.
  const changes = [
    { title: "Rename…", run: ask("rename") },
    ...(report.status === "processing" ? [] : [{ title: "Delete…", run: ask("delete") }]),
  ];

  async function rename(data: FormData) {
    const body = { name: String(data.get("name")).trim() };
    onRename(await call("patch", "/incentive-reports/{report_id}", { path, body }));
    close();
    notify("The report is renamed");
  }
  async function remove() {
    const go = wayFromHere();
    await call("delete", "/incentive-reports/{report_id}", { path });
    notify("The report is deleted");
    go(["reports"]);
  }
  return (
    <div class="heading">
      <div>
        <NamedHeading name={report.name} />
        <p class="soft">
          {report.status === "processing"
            ? (
              <>
                In progress since <Time at={report.created_at} />; the figures grow.
              </>
            )
            : (
              <>
                {ending(report, job)}, <Time at={report.completed_at ?? report.created_at} />.
              </>
            )} {job && report.status !== "error" && job.failed_items > 0 && (
            <>
              <strong>
                {number(job.failed_items)} of {counted(job.total_items, "site")} {job.failed_items === 1 ? "was" : "were"} not looked up
              </strong>, and the figures leave them out.{" "}
            </>
          )}
          {job && <a href={href(["batches", job.id])}>The batch</a>}
        </p>
      </div>
      <CopyAs
        path={`incentive-reports/${report.id}/summary`}
        sql={`select * from api.report_sites where report_id = '${report.id}' order by position;`}
      />
      <Menu title="Download…" choices={files} />
      <CompareWith report={report} />
      {can("reports:write") && <button type="button" onClick={ask("share")}>Share…</button>}
      <button type="button" onClick={() => print()}>Print</button>
      {can("reports:write") && <Menu title="More…" choices={changes} quiet />}
      {asking.value === "share" && <Sharing report={report} onClose={close} />}
      {asking.value === "rename" && (
        <Dialog title="Rename the report" onClose={close}>
          <Form submit="Rename" onSubmit={rename} onCancel={close}>
            <label>
              Name<input name="name" defaultValue={report.name} maxLength={200} pattern=".*\S.*" required />
            </label>
          </Form>
        </Dialog>
      )}
      {asking.value === "delete" && (
        <Dialog title={`Delete ${isolated(report.name)}?`} onClose={close}>
          <Form submit="Delete the report" onSubmit={remove} onCancel={close} danger>
            <p>Its sites and its links will be permanently deleted. The batch and its results stay.</p>
          </Form>
        </Dialog>
      )}
    </div>
  );
}

/** The filters for the sites of the report, as the API takes them. */
function siteFilters() {
  const [state, program, utility, eligible, q] = ["state", "program", "utility", "eligible", "q"].map((name) => query.value.get(name));
  return {
    ...(state && { state }),
    ...(program && { program }),
    ...(utility && { utility }),
    ...(eligible && { eligible: eligible === "true" }),
    ...(q && { q }),
  };
}

const DAYS = [7, 30, 90, 365];
const LINK = "Whoever has this link can read the report and its files. It is shown only this once.";

/** Links with which anybody can read the report, without a key, for a while. */
function Sharing({ report, onClose }: { report: Report; onClose: () => void }) {
  const path = { report_id: report.id };
  const links = useLoad((signal) => call("get", "/incentive-reports/{report_id}/share", { path, signal }), [report.id]);
  const made = useSignal("");
  const isHere = useRef(true);
  useEffect(() => () => void (isHere.current = false), []);
  async function share(data: FormData) {
    const body = { expires_in_days: Number(data.get("days")) };
    const showSecret = secretShower();
    const { url } = await call("post", "/incentive-reports/{report_id}/share", { path, body });
    if (!isHere.current) return showSecret({ title: "The link", value: url, children: LINK });
    made.value = url;
    links.reload();
  }
  async function revoke(id: string) {
    await call("delete", "/incentive-reports/{report_id}/share/{share_id}", { path: { ...path, share_id: id } });
    links.reload();
  }
  const shares = links.data.value?.shares ?? [];
  return (
    <Dialog title="Share the report" onClose={onClose} wide>
      {made.value ? <Secret value={made.value}>{LINK}</Secret> : (
        <Form submit="Create a link" onSubmit={share} onCancel={onClose}>
          <p>A link shows this report, and nothing else, to whoever has it. No key is needed.</p>
          <label>
            It expires after
            <select name="days">
              {DAYS.map((days) => <option key={days} value={days} selected={days === 30}>{counted(days, "day")}</option>)}
            </select>
          </label>
        </Form>
      )}
      <Problem error={links.error.value} />
      {shares.length > 0 && (
        <table class="rows">
          <thead>
            <tr>
              <th>Links so far</th>
              <th>Ends</th>
              <th>
                <span class="unseen">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {shares.map((share) => (
              <tr key={share.id}>
                <td>
                  made <Time at={share.created_at} />
                </td>
                <td data-label="ends">
                  <Time at={share.expires_at} />
                </td>
                <td class="row-actions">
                  <Command class="quiet" run={() => revoke(share.id)}>Revoke</Command>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Dialog>
  );
}

function Figures({ report, job }: { report: Report; job: Job | null }) {
  const { total_sites, eligible_sites, total_incentive_value, conditional_incentive_amount: conditional } = report;
  const figures = [
    [
      dollars(total_incentive_value),
      "total incentives",
      conditional ? `and up to ${dollars(conditional)} that depends on facts about the households` : "",
    ],
    [
      number(eligible_sites),
      eligible_sites === 1 ? "eligible site" : "eligible sites",
      total_sites ? `${percent(eligible_sites / total_sites)} of the sites looked up` : "",
    ],
    [dollars(eligible_sites ? total_incentive_value / eligible_sites : 0), "average per eligible site", ""],
    [
      number(total_sites),
      total_sites === 1 ? "site looked up" : "sites looked up",
      job && job.total_items !== total_sites ? `of ${number(job.total_items)} uploaded` : "",
    ],
  ] as const;
  return (
    <div class="figures">
      {figures.map(([value, caption, detail]) => (
        <div key={caption} class="card figure">
          <strong>{value}</strong>
          <span>{caption}</span>
          {detail && <small>{detail}</small>}
        </div>
      ))}
    </div>
  );
}

function Sites({ summary, version }: { summary: Schemas["ReportSummary"] & { job: Job | null }; version: number }) {
  const { report, job, by_state: states } = summary;
  const filters = siteFilters();
  const { state, program, utility, eligible, q = "" } = filters;
  const sort = (query.value.get("sort") ?? "-amount") as Schemas["ReportSort"];
  const pages = usePages(async (query, signal) => {
    const path = { report_id: report.id };
    const { sites: rows, ...page } = await call("get", "/incentive-reports/{report_id}", {
      path,
      query: { ...filters, sort, ...query },
      signal,
    });
    return { rows, total: page.total, next_cursor: page.next_cursor };
  }, [report.id, sort, state, program, utility, eligible, q]);
  useEffect(() => {
    if (version > 0) pages.refresh();
  }, [version]);

  const total = pages.data.value?.at(-1)?.total;
  const chosen = [
    program && (programs(summary).find(({ key }) => key === program)?.name ?? program),
    utility && (utilities(summary).find(({ key }) => key === utility)?.name ?? utility),
  ].filter(Boolean);
  return (
    <section aria-label="Sites">
      <div class="toolbar">
        <h2>{total ? counted(total, "site") : "Sites"}</h2>
        <div class="filters">
          {chosen.length > 0 && (
            <button type="button" onClick={() => setQuery({ program: null, utility: null })}>
              {chosen.join(", ")} ×<span class="unseen">Show all programs and utilities</span>
            </button>
          )}
          <Search label="Search sites" hint="Reference, street or city" value={q} onSearch={(q) => setQuery({ q })} />
          <select
            aria-label="Eligibility"
            value={String(eligible ?? "")}
            onChange={(event) => setQuery({ eligible: event.currentTarget.value })}
          >
            <option value="">Eligible or not</option>
            <option value="true">Eligible</option>
            <option value="false">Not eligible</option>
          </select>
          <select aria-label="State" value={state ?? ""} onChange={(event) => setQuery({ state: event.currentTarget.value })}>
            <option value="">All states</option>
            {states.filter(({ state_or_province_code: code }) => code).map(({ state_or_province_code: code, name }) => (
              <option key={code} value={code!}>{name ?? code}</option>
            ))}
          </select>
          <select aria-label="Order" value={sort} onChange={(event) => setQuery({ sort: event.currentTarget.value })}>
            {SORTS.map(([value, title]) => <option key={value} value={value}>{title}</option>)}
          </select>
        </div>
      </div>
      <List
        pages={pages}
        columns={["Site", "Utility", "Programs", "#Incentives"]}
        empty="No matching sites."
        class="report-sites"
        row={(site) => (
          <tr key={site.item_id}>
            <td>
              {job
                ? <a class="main-link" href={href(["batches", job.id], { q: site.reference_id })}>{site.reference_id}</a>
                : <b>{site.reference_id}</b>}
              <small>{oneLine(site.address)}</small>
            </td>
            <td>{site.utility.name}</td>
            <td>{site.programs.map(({ program_name }) => program_name).join(", ")}</td>
            <td class="number">
              {dollars(site.total_incentive_amount)}
              <Conditional amount={site.conditional_incentive_amount} />
            </td>
          </tr>
        )}
      />
    </section>
  );
}

function programs(data: Schemas["ReportSummary"]): Total[] {
  return data.by_program.map((row) => ({ ...row, key: row.program_id, name: row.program_name }));
}

function utilities(data: Schemas["ReportSummary"]): Total[] {
  return data.by_utility.map((row) => ({ ...row, key: row.eiaid === null ? row.name : String(row.eiaid), name: row.name ?? "Unknown" }));
}
