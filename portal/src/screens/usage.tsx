import { call, type Schemas } from "../api.ts";
import { dayOf, monthOf, number, percent } from "../format.ts";
import { useLoad } from "../load.ts";
import { CopyAs, literal } from "../parts/copy.tsx";
import { useShown } from "../parts/form.tsx";
import { List, usePages } from "../parts/list.tsx";
import { href, query, setQuery } from "../router.ts";
import { nameOf } from "./batches.tsx";

/** The name that other screens show for the batch. */
function batchOf({ job_id, name, created_at, total_items }: Schemas["UsageRow"]): string {
  return created_at && total_items ? nameOf({ name, created_at, total_items }) : `Deleted batch ${job_id.slice(-6)}`;
}

/** A field for a day. While its year is typed, it is a day of the first millennium. */
function DayField({ value, onChange }: { value: string; onChange: (day: string) => void }) {
  return (
    <input
      ref={useShown(value)}
      type="date"
      min="1000-01-01"
      defaultValue={value}
      onChange={({ currentTarget: field }) => field.validity.valid && onChange(field.value)}
    />
  );
}

export function Usage() {
  const [from = "", before = ""] = ["from", "before"].map((name) => query.value.get(name) ?? "");
  const range = { ...(from && { created_from: from }), ...(before && { created_before: before }) };
  const sums = useLoad((signal) => call("get", "/usage", { query: { ...range, limit: 1 }, signal }), [from, before]);
  const pages = usePages(async (page, signal) => {
    const { usage, total, next_cursor } = await call("get", "/usage", { query: { ...range, ...page }, signal });
    return { rows: usage, total, next_cursor };
  }, [from, before]);
  const data = sums.data.value;
  return (
    <>
      <div class="heading">
        <h1>Usage</h1>
        <CopyAs
          path={`usage?${new URLSearchParams(range)}`}
          sql={`select * from api.usage where ${from ? `day >= ${literal(from)}` : "true"}${
            before && ` and day < ${literal(before)}`
          } order by day desc;`}
        />
      </div>
      {data && (
        <div class="figures" aria-busy={sums.outdated.value}>
          <div class="card figure">
            <strong>{number(data.month.lookups)}</strong>
            <span>{data.month.lookups === 1 ? "lookup" : "lookups"} in {monthOf(data.month.month)}</span>
            {data.month.limit !== null && (
              <small>
                {data.month.limit > 0 && `${percent(data.month.lookups / data.month.limit)} of `}the limit of {number(data.month.limit)}
              </small>
            )}
          </div>
          <div class="card figure">
            <strong>{number(data.lookups)}</strong>
            <span>{data.lookups === 1 ? "lookup" : "lookups"} in the days below</span>
          </div>
        </div>
      )}
      <div class="toolbar">
        <p class="soft">Each attempt counts, including retries. Days are in UTC.</p>
        <div class="filters">
          <label class="inline">
            From <DayField value={from} onChange={(day) => setQuery({ from: day })} />
          </label>
          <label class="inline">
            before <DayField value={before} onChange={(day) => setQuery({ before: day })} />
          </label>
        </div>
      </div>
      <List
        pages={pages}
        columns={["Day", "Batch", "#Lookups"]}
        empty="No lookups."
        row={(row) => (
          <tr key={`${row.day} ${row.job_id}`}>
            <td>{dayOf(row.day)}</td>
            <td>
              {row.created_at ? <a class="main-link" href={href(["batches", row.job_id])}>{batchOf(row)}</a> : batchOf(row)}
            </td>
            <td class="number">{number(row.lookups)}</td>
          </tr>
        )}
      />
    </>
  );
}
