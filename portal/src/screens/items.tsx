// The sites of a batch, and one of them.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { counted, dollars, number } from "../format.ts";
import { debounced } from "../load.ts";
import { Dialog } from "../parts/dialog.tsx";
import { List, usePages } from "../parts/list.tsx";
import { Time } from "../parts/misc.tsx";
import { href, path, query, setQuery } from "../router.ts";

type Item = Schemas["Item"];
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
          <input
            type="search"
            aria-label="Search sites"
            placeholder="Reference, street or city"
            defaultValue={search}
            onInput={debounced((event) => setQuery({ q: (event.target as HTMLInputElement).value }))}
          />
        </div>
      </div>
      <List
        pages={pages}
        columns={["Site", "Address", "Status", "#Incentives"]}
        empty="No site is like that."
        class="items"
        row={(item) => (
          <tr key={item.id}>
            <td>
              <a class="main-link" href={href(path.value, { status, error, q: search, item: item.id })}>{item.reference_id}</a>
            </td>
            <td>{oneLine(item.address)}</td>
            <td>
              <span class={`status ${item.status}`}>{ITEM_TITLES[item.status]}</span>
              {item.error_message && <small>{item.error_message}</small>}
            </td>
            <td class="number">{amount(item)}</td>
          </tr>
        )}
      />
      {shown && <ItemDialog item={pages.data.value?.rows.find((item) => item.id === shown)} />}
    </section>
  );
}

function ItemDialog({ item }: { item: Item | undefined }) {
  const close = () => setQuery({ item: null });
  const names = useSignal(new Map<number, string>());
  useEffect(() => {
    call("get", "/devices").then(({ devices }) => (names.value = new Map(devices.map(({ id, name }) => [id, name]))), () => {});
  }, []);
  if (!item) return null;
  const result = item.result as Partial<Schemas["LookupResult"]> | null;
  const programs = result?.incentives?.by_program ?? [];
  return (
    <Dialog title={item.reference_id} onClose={close} wide>
      <dl class="facts">
        <dt>Address</dt>
        <dd>{oneLine(item.address)}</dd>
        <dt>Building</dt>
        <dd>{words(item.building_type)}</dd>
        <dt>Devices</dt>
        <dd>{item.device_ids.map((id) => names.value.get(id) ?? `device ${id}`).join(", ")}</dd>
        <dt>Status</dt>
        <dd>
          <span class={`status ${item.status}`}>{ITEM_TITLES[item.status]}</span>
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
      {programs.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>Program</th>
              <th class="number">Incentives</th>
            </tr>
          </thead>
          <tbody>
            {programs.map((program) => (
              <tr key={program.program_id}>
                <td>
                  {program.program_name}
                  {program.device_tier_results?.filter(({ eligible }) => eligible).map((tier) => (
                    <small key={tier.tier_id}>{tier.device_name}: {tier.tier_name}</small>
                  ))}
                </td>
                <td class="number">{dollars(program.total_incentive)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {result && (
        <details>
          <summary>The whole answer</summary>
          <pre tabIndex={0}>{JSON.stringify(result, null, 2)}</pre>
        </details>
      )}
    </Dialog>
  );
}

function amount(item: Item): string {
  const total = (item.result as Partial<Schemas["LookupResult"]> | null)?.incentives?.total_incentive_amount;
  return typeof total === "number" ? dollars(total) : "";
}

export function oneLine(address: Schemas["Address"]): string {
  const { street_1, street_2, city, state_or_province_code, postal_code } = address;
  return [street_1, street_2, city, `${state_or_province_code} ${postal_code}`].filter(Boolean).join(", ");
}

/** Such as Manufactured home, of MANUFACTURED_HOME. */
export function words(constant: string): string {
  return constant[0] + constant.slice(1).toLowerCase().replaceAll("_", " ");
}
