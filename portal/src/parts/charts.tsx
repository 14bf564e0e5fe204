// Charts as SVG, each with its data as a table, for screen readers and for those who want the figures.
import type { ComponentChildren } from "preact";
import { counted, dollars, number, percent } from "../format.ts";

export interface Total {
  /** The filter for the sites when it is chosen; null: none. */
  key: string | null;
  name: string;
  sites?: number;
  eligible_sites: number;
  total_incentive_value: number;
}

interface Choosable {
  totals: Total[];
  chosen: string | null;
  onChoose: (key: string | null) => void;
}

interface ChartProperties {
  title: string;
  /** Titles of the table's columns: text in the first, numbers in the others. */
  columns: string[];
  rows: string[][];
  children: ComponentChildren;
}

function Chart({ title, columns, rows, children }: ChartProperties) {
  return (
    <section class="card chart" aria-label={title}>
      <h2>{title}</h2>
      {children}
      {rows.length > 0 && (
        <details>
          <summary>As a table</summary>
          <table>
            <thead>
              <tr>{columns.map((name, index) => <th key={name} class={index ? "number" : undefined}>{name}</th>)}</tr>
            </thead>
            <tbody>
              {rows.map(([name, ...figures]) => (
                <tr key={name}>
                  <td>{name}</td>
                  {figures.map((figure, index) => <td key={index} class="number">{figure}</td>)}
                </tr>
              ))}
            </tbody>
          </table>
        </details>
      )}
    </section>
  );
}

function tableOf(title: string, totals: Total[]): { columns: string[]; rows: string[][] } {
  const withSites = totals[0]?.sites !== undefined;
  return {
    columns: [title, ...(withSites ? ["Sites"] : []), "Eligible", "Incentives"],
    rows: totals.map(({ name, sites = 0, eligible_sites, total_incentive_value }) => [
      name,
      ...(withSites ? [number(sites)] : []),
      number(eligible_sites),
      dollars(total_incentive_value),
    ]),
  };
}

export function Donut({ eligible, total }: { eligible: number; total: number }) {
  const share = total > 0 ? eligible / total : 0;
  return (
    <Chart
      title="Eligibility"
      columns={["Eligibility", "Sites"]}
      rows={[["Eligible", number(eligible)], ["Not eligible", number(total - eligible)]]}
    >
      <svg class="donut" viewBox="0 0 200 200" role="img" aria-label={`${counted(eligible, "eligible site")} of ${number(total)}`}>
        <circle cx="100" cy="100" r="78" class="ring" />
        <circle cx="100" cy="100" r="78" class="share" pathLength="1" stroke-dasharray={`${share} 1`} transform="rotate(-90 100 100)" />
        <text x="100" y="112" text-anchor="middle">{percent(share)}</text>
      </svg>
      <ul class="legend">
        <li>
          <i class="completed" />eligible <b>{number(eligible)}</b>
        </li>
        <li>
          <i />not eligible <b>{number(total - eligible)}</b>
        </li>
      </ul>
    </Chart>
  );
}

const MOST_BARS = 8;

/** Bars by value, largest first; choosing one filters the sites. */
export function Bars({ title, totals, chosen, onChoose }: Choosable & { title: string }) {
  const paying = totals.filter(({ total_incentive_value }) => total_incentive_value > 0);
  const largest = paying[0]?.total_incentive_value ?? 1;
  const rest = paying.slice(MOST_BARS);
  return (
    <Chart title={title} {...tableOf(title, totals)}>
      {paying.length === 0 && <p class="soft">No incentives.</p>}
      <ol class="bars">
        {paying.slice(0, MOST_BARS).map(({ key, name, eligible_sites, total_incentive_value }) => (
          <li key={name}>
            {key === null
              ? <span>{name}</span>
              : (
                <button type="button" class="link" aria-pressed={key === chosen} onClick={() => onChoose(key === chosen ? null : key)}>
                  {name}
                </button>
              )}
            <span class="number">
              <b>{dollars(total_incentive_value)}</b> · {counted(eligible_sites, "site")}
            </span>
            <span class="bar">
              <i class="completed" style={{ width: `${(total_incentive_value / largest) * 100}%` }} />
            </span>
          </li>
        ))}
      </ol>
      {rest.length > 0 && (
        <p class="soft">{number(rest.length)} more: {dollars(rest.reduce((sum, { total_incentive_value: value }) => sum + value, 0))}</p>
      )}
    </Chart>
  );
}

const TILES = `
AK .. .. .. .. .. .. .. .. .. .. ME
.. .. .. .. .. .. .. .. .. .. VT NH
.. WA ID MT ND MN WI .. MI NY MA RI
.. OR NV WY SD IA IL IN OH PA NJ CT
.. CA UT CO NE MO KY WV VA MD DE ..
.. .. AZ NM KS AR TN NC SC DC .. ..
.. .. .. .. OK LA MS AL GA .. .. ..
HI .. .. .. TX .. .. .. .. FL .. PR`.trim().split("\n").flatMap((line, row) =>
  line.split(" ").map((code, column) => ({ code, row, column })).filter(({ code }) => code !== "..")
);

/**
 * Each state as a tile near its place on the map: darker with more incentives, by the square root, so that small values show. Choosing a
 * tile with sites filters them.
 */
export function StateTiles({ totals, chosen, onChoose }: Choosable) {
  const byCode = new Map(totals.map((total) => [total.key, total]));
  const largest = Math.max(...totals.map(({ total_incentive_value }) => total_incentive_value), 1);
  return (
    <Chart title="Incentives by state" {...tableOf("State", totals)}>
      <svg
        class="tiles"
        viewBox="0 0 478 318"
        role="group"
        aria-label="Map of the states, the darker the more incentives; the table has the figures"
      >
        {TILES.map(({ code, row, column }) => {
          const total = byCode.get(code);
          const value = total?.total_incentive_value ?? 0;
          const strength = Math.sqrt(value / largest);
          const choose = () => onChoose(code === chosen ? null : code);
          return (
            <g
              key={code}
              transform={`translate(${column * 40 + 0.5} ${row * 40 + 0.5})`}
              class={!total ? "none" : strength > 0.6 ? "strong" : ""}
              {...(total
                ? {
                  role: "button",
                  // SVG requires this form.
                  tabindex: 0,
                  "aria-pressed": code === chosen,
                  "aria-label": `${total.name}, ${dollars(value)}`,
                  onClick: choose,
                  onKeyDown: (event: KeyboardEvent) => {
                    if (event.key !== "Enter" && event.key !== " ") return;
                    event.preventDefault();
                    choose();
                  },
                }
                : { "aria-hidden": true })}
            >
              {total && <title>{`${total.name}: ${dollars(value)}, ${counted(total.sites ?? total.eligible_sites, "site")}`}</title>}
              <rect
                width="37"
                height="37"
                rx="5"
                style={value ? { fill: `color-mix(in srgb, var(--accent) ${15 + 85 * strength}%, var(--card))` } : undefined}
              />
              <text x="18.5" y="23.5" text-anchor="middle">{code}</text>
            </g>
          );
        })}
      </svg>
    </Chart>
  );
}
