// The sites of a batch, and one of them.
import { Fragment } from "preact";
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { counted, dollars, number, seconds, titled, words } from "../format.ts";
import { useLoad } from "../load.ts";
import { CopyAs, literal, where } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Search } from "../parts/form.tsx";
import { List, usePages } from "../parts/list.tsx";
import { Conditional, Loading, Problem, Time } from "../parts/misc.tsx";
import { close, href, path, query, setQuery } from "../router.ts";

type Item = Schemas["ItemWithStory"];
type Status = Schemas["ItemStatus"];

const FILTERS: [Status | "", string][] = [["", "All"], ["completed", "Completed"], ["failed", "Failed"], ["processing", "In flight"], [
  "pending",
  "Waiting",
]];
export const ITEM_TITLES: Record<Status, string> = {
  pending: "Waiting",
  processing: "In flight",
  completed: "Completed",
  failed: "Failed",
};

/** `version` changes when the items may have. */
export function Items({ job, version }: { job: Schemas["JobDetails"]; version: number }) {
  const status = (query.value.get("status") ?? "") as Status | "";
  const error = query.value.get("error") ?? "";
  const shown = query.value.get("item");
  const search = query.value.get("q") ?? "";
  const filters = { ...(status && { status }), ...(error && { error_code: error }), ...(search && { q: search }) };
  const pages = usePages(async (page, signal) => {
    const path = { job_id: job.id };
    const { items: rows, total, next_cursor } = await call("get", "/batch-lookups/{job_id}/items", {
      path,
      query: { ...page, ...filters },
      signal,
    });
    return { rows, total, next_cursor };
  }, [job.id, status, error, search]);
  useEffect(() => {
    if (version > 0) pages.refresh();
  }, [version]);

  const counts: Record<string, number> = { "": job.total_items, ...job.item_counts };
  return (
    <section aria-label="Sites">
      <div class="toolbar">
        <div class="tabs" role="group" aria-label="Status of sites">
          {FILTERS.map(([name, title]) => (
            <a key={name} href={href(path.value, { status: name, q: search })} aria-current={name === status ? "true" : undefined}>
              {title} <span class="count">{number(counts[name] ?? 0)}</span>
            </a>
          ))}
        </div>
        <div class="filters">
          {error && (
            <button type="button" onClick={() => setQuery({ error: null })}>
              <code>{error}</code> ×<span class="unseen">Show all failed sites</span>
            </button>
          )}
          <CopyAs
            path={`batch-lookups/${job.id}/items?${new URLSearchParams(filters)}`}
            sql={`select * from api.items${
              where(
                `job_id = '${job.id}'`,
                status && `status = ${literal(status)}`,
                error && `error_code = ${literal(error)}`,
                search &&
                  `strpos(lower(concat_ws(' ', reference_id, address ->> 'street_1', address ->> 'city', (select string_agg(value, ' ') from json_each_text(source)))), lower(${
                    literal(search)
                  })) > 0`,
              )
            } order by position;`}
          />
          <Search label="Search sites" hint="Any of your columns" value={search} onSearch={(q) => setQuery({ q })} />
        </div>
      </div>
      <List
        pages={pages}
        columns={["Site", "Address", "Status", "#Incentives"]}
        empty="No matching sites."
        class="items"
        row={(item) => (
          <tr key={item.id}>
            <td>
              <a class="main-link" href={href(path.value, { status, error, q: search, item: String(item.position) })}>
                {item.reference_id}
              </a>
            </td>
            <td>{oneLine(item.address)}</td>
            <td>
              <span class={`status ${item.status}`}>{titled(ITEM_TITLES, item.status)}</span>
              {item.error_message && <small>{item.error_message}</small>}
            </td>
            <td class="number">{amount(item)}</td>
          </tr>
        )}
      />
      {shown && <ItemDialog key={shown} jobId={job.id} position={Number(shown)} version={version} />}
    </section>
  );
}

function ItemDialog({ jobId, position, version }: { jobId: string; position: number; version: number }) {
  const path = { job_id: jobId, position };
  const loaded = useLoad((signal) => call("get", "/batch-lookups/{job_id}/items/{position}", { path, signal }), []);
  const names = useSignal(new Map<number, string>());
  const first = useRef(version);
  useEffect(() => {
    if (version !== first.current) loaded.reload();
  }, [version]);
  useEffect(() => {
    call("get", "/devices").then(({ devices }) => (names.value = new Map(devices.map(({ id, name }) => [id, name]))), () => {});
  }, []);
  const item = loaded.data.value;
  return (
    <Dialog title={item?.reference_id ?? "Site"} onClose={() => close("item")} wide>
      <Problem error={loaded.error.value} />
      {!item && !loaded.error.value && <Loading />}
      {item && <Details item={item} device={(id) => names.value.get(id) ?? `device ${id}`} />}
      <CopyAs
        path={`batch-lookups/${jobId}/items/${position}`}
        sql={`select * from api.items where job_id = '${jobId}' and position = ${position};`}
      />
    </Dialog>
  );
}

function Details({ item, device }: { item: Item; device: (id: number) => string }) {
  const result = item.result as Partial<Schemas["LookupResult"]> | null;
  const programs = listOf(result?.incentives?.by_program);
  const own = Object.entries(item.source ?? {}).filter(([, value]) => value !== "" && value !== null);
  return (
    <>
      <dl class="facts">
        <dt>Address</dt>
        <dd>{oneLine(item.address)}</dd>
        <dt>Building</dt>
        <dd>{words(item.building_type)}</dd>
        <dt>Devices</dt>
        <dd>{item.device_ids.map(device).join(", ")}</dd>
        <dt>Status</dt>
        <dd>
          <span class={`status ${item.status}`}>{titled(ITEM_TITLES, item.status)}</span>
          {item.processed_at && (
            <>
              , <Time at={item.processed_at} />
            </>
          )}
          {item.retry_count > 0 && `, after ${counted(item.retry_count, "retry", "retries")}`}
        </dd>
        {item.error_message && (
          <>
            <dt>Reason</dt>
            <dd>
              {item.error_message} <code>{item.error_code}</code>
            </dd>
          </>
        )}
        {item.warnings.length > 0 && (
          <>
            <dt>Warnings</dt>
            <dd>{item.warnings.join(" ")}</dd>
          </>
        )}
        {result?.utility?.name && (
          <>
            <dt>Utility</dt>
            <dd>{result.utility.name}</dd>
          </>
        )}
      </dl>
      <Story item={item} />
      {programs.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Program</th>
              <th class="number">Incentives</th>
            </tr>
          </thead>
          <tbody>
            {programs.map((program) => <Program key={program.program_id} program={program} />)}
          </tbody>
        </table>
      )}
      {own.length > 0 && (
        <details open>
          <summary>Your columns</summary>
          <dl class="facts">
            {own.map(([name, value]) => (
              <Fragment key={name}>
                <dt>{name}</dt>
                <dd>{typeof value === "string" ? value : JSON.stringify(value)}</dd>
              </Fragment>
            ))}
          </dl>
        </details>
      )}
      {result && (
        <details>
          <summary>The whole answer</summary>
          <pre tabIndex={0}>{JSON.stringify(result, null, 2)}</pre>
        </details>
      )}
    </>
  );
}

/** A program with its offers for the site and how they add up, or why there are none. The result may have a provider's own form. */
function Program({ program }: { program: Partial<Schemas["ProgramResult"]> }) {
  const tiers = listOf(program.device_tier_results);
  const offers = tiers.filter(({ eligible, conditional }) => eligible || conditional);
  const reasons = offers.length > 0 ? [] : [...new Set(tiers.flatMap((tier) => listOf(tier.failed_requirements)))];
  return (
    <tr>
      <td>
        {program.program_name}
        {offers.map((tier, place) => (
          <Fragment key={place}>
            <small>
              {tier.device_name}: {tier.tier_name}
              {typeof tier.calculation_details === "string" && `: ${tier.calculation_details}`}
            </small>
            <Requirements title="Only if" list={tier.conditional_requirements} />
            <Requirements title="Not checked" list={tier.ignored_requirements} />
          </Fragment>
        ))}
        <Requirements title="Not eligible" list={reasons} />
      </td>
      <td class="number">
        {dollars(program.total_incentive ?? 0)}
        <Conditional amount={program.conditional_incentive_amount} />
      </td>
    </tr>
  );
}

function Requirements({ title, list }: { title: string; list: string[] | undefined }) {
  const all = listOf(list);
  return all.length > 0 ? <small>{title}: {all.join("; ")}</small> : null;
}

function listOf<T>(value: T[] | null | undefined): T[] {
  return Array.isArray(value) ? value : [];
}

const OUTCOMES: Record<Schemas["AttemptOutcome"], string> = {
  complete: "looked up",
  retry: "tried again later",
  wait: "tried again later, at no cost",
  fail: "given up",
};

/** What happened to the site since the upload, and what it waits for. */
function Story({ item }: { item: Item }) {
  const { attempts, waiting_for } = item;
  if (attempts.length === 0 && !waiting_for) return null;
  return (
    <>
      <h3>Story</h3>
      <ol class="timeline">
        <li>
          <time dateTime={item.created_at}>{seconds(item.created_at)}</time> uploaded, as number {number(item.position + 1)}
        </li>
        {attempts.map((attempt) => (
          <li key={attempt.attempt} class={attempt.outcome === "complete" ? "good" : "bad"}>
            <time dateTime={attempt.recorded_at}>{seconds(attempt.recorded_at)}</time>{" "}
            {attempt.http_status ? `HTTP ${attempt.http_status}` : attempt.error_code ?? "no answer"}
            {attempt.latency_ms !== null && ` after ${number(attempt.latency_ms)} ms`}, {titled(OUTCOMES, attempt.outcome)}
            <small>{[attempt.error_message, attempt.worker && `worker ${attempt.worker}`].filter(Boolean).join(" · ")}</small>
          </li>
        ))}
        {waiting_for && (
          <li class="now">
            {waiting_for.message}
            {waiting_for.until && `, until ${seconds(waiting_for.until)}`}
          </li>
        )}
        {!waiting_for && item.processed_at && attempts.at(-1)?.outcome !== "fail" && (
          <li class={item.status === "completed" ? "good" : "bad"}>
            <time dateTime={item.processed_at}>{seconds(item.processed_at)}</time> {titled(ITEM_TITLES, item.status).toLowerCase()}
          </li>
        )}
      </ol>
    </>
  );
}

function amount(item: Schemas["Item"]): string {
  const total = (item.result as Partial<Schemas["LookupResult"]> | null)?.incentives?.total_incentive_amount;
  return typeof total === "number" ? dollars(total) : "";
}

export function oneLine(address: Schemas["Address"]): string {
  const { street_1, street_2, city, state_or_province_code, postal_code } = address;
  return [street_1, street_2, city, `${state_or_province_code} ${postal_code}`].filter(Boolean).join(", ");
}
