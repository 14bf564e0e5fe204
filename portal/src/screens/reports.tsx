import { useEffect } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { dollars, number, percent, titled } from "../format.ts";
import { watch } from "../live.ts";
import { throttled } from "../load.ts";
import { CopyAs } from "../parts/copy.tsx";
import { List, PAGE, usePages } from "../parts/list.tsx";
import { Time } from "../parts/misc.tsx";
import { go, href, query, setQuery } from "../router.ts";

const POLL_SECONDS = 5;

/** To the API, a report is complete once its batch has ended, even if that was cancelled. */
const TITLES: Record<Schemas["ReportStatus"], string> = { processing: "In progress", complete: "Ended", error: "No site looked up" };

async function load(query: { limit: number; cursor?: string }, signal?: AbortSignal) {
  const { reports: rows, ...page } = await call("get", "/incentive-reports", { query, signal });
  return { rows, ...page };
}

export function Reports() {
  const compared = query.value.get("compare");
  const pages = usePages(load, []);
  useEffect(() => {
    const refresh = throttled(pages.refresh, 2000);
    const stop = watch([{ table: "incentive_reports", onChange: refresh }], async () => {
      const failure = await pages.refresh();
      if (failure) throw failure;
      return POLL_SECONDS;
    });
    return () => {
      stop();
      refresh.cancel();
    };
  }, []);
  const name = pages.data.value?.flatMap(({ rows }) => rows).find(({ id }) => id === compared)?.name;
  return (
    <>
      <div class="heading">
        <h1>Reports</h1>
        <CopyAs path={`incentive-reports?limit=${PAGE}`} sql={`select * from api.reports order by created_at desc limit ${PAGE};`} />
      </div>
      {compared && (
        <p class="banner">
          Choose what to compare {name ? <b>{name}</b> : "the report"} with. <a href={href(["reports"])}>Never mind</a>
        </p>
      )}
      <List
        pages={pages}
        columns={["Report", "Status", "#Eligible", "#Incentives", "Created", "#Compare"]}
        class="reports"
        empty="No reports yet. Each batch creates one."
        row={(report) => (
          <tr key={report.id}>
            <td>
              <a class="main-link" href={href(["reports", report.id])}>{report.name}</a>
            </td>
            <td>{titled(TITLES, report.status)}</td>
            <td class="number" data-label="Eligible">
              {number(report.eligible_sites)} of {number(report.total_sites)}
              {report.total_sites > 0 && ` · ${percent(report.eligible_sites / report.total_sites)}`}
            </td>
            <td class="number">{dollars(report.total_incentive_value)}</td>
            <td>
              <Time at={report.created_at} />
            </td>
            <td class="row-actions">
              {compared !== report.id && (
                <button
                  type="button"
                  class="quiet"
                  aria-label={compared ? `Compare with ${report.name}` : `Compare ${report.name}`}
                  onClick={() =>
                    compared ? go(["reports", "difference"], { from: report.id, to: compared }) : setQuery({ compare: report.id })}
                >
                  {compared ? "With this" : "Compare…"}
                </button>
              )}
            </td>
          </tr>
        )}
      />
    </>
  );
}
