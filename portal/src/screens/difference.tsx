import { call, type Schemas } from "../api.ts";
import { dollars, isolated, number, shortTime, signedDollars, titled } from "../format.ts";
import { useLoad } from "../load.ts";
import { CopyAs, literal } from "../parts/copy.tsx";
import { List, usePages } from "../parts/list.tsx";
import { openAtArrow } from "../parts/menu.tsx";
import { Conditional } from "../parts/misc.tsx";
import { go, href, query } from "../router.ts";
import { oneLine } from "./items.tsx";

type Change = Schemas["ReportChange"];

const TITLES: Record<Change, string> = { added: "Added", removed: "Removed", changed: "Changed" };

/** Links to the comparison of the report with another one. */
export function CompareWith({ report }: { report: Schemas["Report"] }) {
  const reports = useLoad((signal) => call("get", "/incentive-reports", { query: { limit: 100 }, signal }), [report.id]);
  const others = reports.data.value?.reports.filter(({ id }) => id !== report.id) ?? [];
  if (others.length === 0) return null;
  return (
    <select
      class="compact"
      aria-label="Compare with"
      value=""
      onKeyDown={openAtArrow}
      onChange={(event) => go(["reports", "difference"], { from: event.currentTarget.value, to: report.id })}
    >
      <option value="">Compare with…</option>
      {others.map(({ id, name, created_at }) => <option key={id} value={id}>{isolated(name)}, {shortTime(created_at)}</option>)}
    </select>
  );
}

export function Difference() {
  const [from = "", to = ""] = ["from", "to"].map((name) => query.value.get(name) ?? "");
  const change = (query.value.get("change") ?? "") as Change | "";
  // The sums come with every page.
  const sums = useLoad((signal) => call("get", "/incentive-reports/diff", { query: { from, to, limit: 1 }, signal }), [from, to]);
  const pages = usePages(async (page, signal) => {
    const { differences: rows, total, next_cursor } = await call("get", "/incentive-reports/diff", {
      query: { from, to, ...page, ...(change && { change }) },
      signal,
    });
    return { rows, total, next_cursor };
  }, [from, to, change]);

  const data = sums.outdated.value ? undefined : sums.data.value;
  const filters: [Change | "", string, number | undefined][] = [
    ["", "All", data && data.totals.added.sites + data.totals.removed.sites + data.totals.changed.sites],
    ...Object.entries(TITLES).map((
      [name, title],
    ): [Change, string, number | undefined] => [name as Change, title, data?.totals[name as Change].sites]),
  ];
  return (
    <>
      <div class="heading">
        <div>
          <h1>{data ? signedDollars(data.totals.difference) : "Difference"}</h1>
          {data && (
            <p class="soft">
              from <a href={href(["reports", from])}>{data.from.name}</a> ({dollars(data.from.total_incentive_value)}) to{" "}
              <a href={href(["reports", to])}>{data.to.name}</a> ({dollars(data.to.total_incentive_value)})
            </p>
          )}
          {data && (data.from.conditional_incentive_amount > 0 || data.to.conditional_incentive_amount > 0) && (
            <p class="soft">
              Depending on facts about the households: from {dollars(data.from.conditional_incentive_amount)} to{" "}
              {dollars(data.to.conditional_incentive_amount)}
            </p>
          )}
        </div>
        <CopyAs
          path={`incentive-reports/diff?from=${from}&to=${to}`}
          sql={`select api.diff_incentive_reports(p_from_report_id => ${literal(from)}, p_to_report_id => ${literal(to)});`}
        />
        <a class="button" href={href(["reports", "difference"], { from: to, to: from })}>Swap</a>
      </div>
      {data && (
        <div class="figures">
          {(["added", "removed", "changed", "unchanged"] as const).map((name) => (
            <div key={name} class="card figure">
              <strong>{number(data.totals[name].sites)}</strong>
              <span>{data.totals[name].sites === 1 ? "site" : "sites"} {name}</span>
              <small>{signedDollars(data.totals[name].difference)}</small>
              <Conditional amount={data.totals[name].conditional_difference} signed />
            </div>
          ))}
        </div>
      )}
      <div class="toolbar">
        <div class="tabs" role="group" aria-label="Change">
          {filters.map(([name, title, count]) => (
            <a
              key={name}
              href={href(["reports", "difference"], { from, to, change: name })}
              aria-current={name === change ? "true" : undefined}
            >
              {title} {count !== undefined && <span class="count">{number(count)}</span>}
            </a>
          ))}
        </div>
      </div>
      <List
        pages={pages}
        columns={["Site", "Change", "#Before", "#After", "#Difference"]}
        empty="No differences."
        row={(row) => (
          <tr key={row.reference_id}>
            <td>
              <b>{row.reference_id}</b>
              <small>{oneLine(row.address)}</small>
            </td>
            <td>{titled(TITLES, row.change)}</td>
            {[row.from, row.to].map((site, place) => (
              <td key={place} class="number">
                {site && dollars(site.total_incentive_amount)}
                <Conditional amount={site?.conditional_incentive_amount} />
              </td>
            ))}
            <td class="number">
              <b>{signedDollars(row.difference)}</b>
              <Conditional amount={row.conditional_difference} signed />
            </td>
          </tr>
        )}
      />
    </>
  );
}
