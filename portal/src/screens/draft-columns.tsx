// Which column has which field, what replaces empty cells, and what words mean.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { type Draft, textOf, titleOf, TITLES, type Upload } from "../draft.ts";
import { listed, titled } from "../format.ts";
import { useLoad } from "../load.ts";
import { openAtArrow } from "../parts/menu.tsx";
import { Loading, Problem } from "../parts/misc.tsx";
import { query } from "../router.ts";
import { can } from "../session.ts";

const HOW: Record<Schemas["ColumnMatch"], string> = {
  given: "as you chose",
  remembered: "as in an earlier file",
  name: "by its name",
  ambiguous: "several columns fit",
};
/** Fields whose texts can mean a value, by the code of those that do not. */
export const FIELD_OF_WORDS: Record<string, string> = {
  unknown_building_type: "building_type",
  invalid_device_ids: "device_ids",
  unknown_state: "state_or_province_code",
  unknown_country: "country_code",
};
const BUILDING_TYPES = {
  RESIDENTIAL: "Residential",
  MULTIFAMILY: "Multifamily",
  MANUFACTURED_HOME: "Manufactured home",
  COMMERCIAL: "Commercial",
};
const COUNTRIES = { US: "United States", CA: "Canada" };
/** The reference of a site without one. */
const BY_ROW = "row-{line}";
const MOST_WORDS = 50;

export function Columns({ draft }: { draft: Draft }) {
  const upload = draft.upload.value;
  const devices = useDevices();
  const used = new Set(upload.columns.map(({ field }) => field));
  const misses = (...fields: string[]) => fields.some((field) => upload.missing_fields.includes(field));
  return (
    <fieldset class="contents" disabled={!can("jobs:write")}>
      {upload.missing_fields.length > 0 && (
        <p class="banner">
          No column was found for {listed(upload.missing_fields.map(titleOf))}. Choose it below
          {misses("building_type", "device_ids") && ", or give a default"}.
          {misses("city", "state_or_province_code", "postal_code") && " A column with the whole address becomes Street."}
          {misses("reference_id") && (
            <>
              {" If no column identifies your sites, "}
              <button type="button" class="link" onClick={() => draft.setDefault("reference_id", BY_ROW)}>number them by row</button>.
            </>
          )}
        </p>
      )}
      <table class="rows columns">
        <thead>
          <tr>
            <th>Your column</th>
            <th>Becomes</th>
            <th>First values</th>
            <th>Why</th>
          </tr>
        </thead>
        <tbody>
          {upload.columns.map((column) => (
            <tr key={column.number}>
              <td>
                <strong id={`column-${column.number}`}>{column.header || `Column ${column.number}`}</strong>
              </td>
              <td>
                <select
                  aria-labelledby={`column-${column.number}`}
                  value={column.field ?? ""}
                  onKeyDown={openAtArrow}
                  onChange={(event) => {
                    const field = event.currentTarget.value;
                    if (field) draft.map(field, column.number);
                    else if (column.field) draft.map(column.field, null);
                  }}
                >
                  <option value="">Kept as it is</option>
                  {Object.entries({ ...TITLES, ...(column.field && { [column.field]: titleOf(column.field) }) }).map(([field, title]) => (
                    <option key={field} value={field}>
                      {title}
                      {used.has(field) && field !== column.field ? " (instead)" : ""}
                    </option>
                  ))}
                </select>
              </td>
              <td class="soft samples" data-label="First values">{column.samples?.join(" · ")}</td>
              <td class={column.how === "ambiguous" ? "warn" : "soft"} data-label="Why">
                {column.how ? titled(HOW, column.how) : "comes back with the results"}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <div class="two">
        <Defaults draft={draft} devices={devices} />
        <Words draft={draft} devices={devices} />
      </div>
    </fieldset>
  );
}

interface PartProperties {
  draft: Draft;
  /** Their names by id. */
  devices: Map<number, string>;
}

function Defaults({ draft, devices }: PartProperties) {
  const { defaults } = draft.upload.value;
  return (
    <section class="card" aria-labelledby="defaults">
      <h2 id="defaults">Where a cell is empty</h2>
      <div class="fields">
        <label>
          Reference
          <Choose
            value={String(defaults.reference_id ?? "")}
            none="No default"
            options={{ [BY_ROW]: "Its row, such as row-2" }}
            onChoose={(value) => draft.setDefault("reference_id", value)}
          />
        </label>
        <label>
          Building type
          <Choose
            value={String(defaults.building_type ?? "")}
            none="No default"
            options={BUILDING_TYPES}
            onChoose={(value) => draft.setDefault("building_type", value)}
          />
        </label>
        <label>
          Country
          <Choose
            value={String(defaults.country_code ?? "")}
            none="By the postal code"
            options={COUNTRIES}
            onChoose={(value) => draft.setDefault("country_code", value)}
          />
        </label>
        <fieldset class="plain">
          <legend>Devices</legend>
          <Devices
            value={defaults.device_ids}
            devices={devices}
            onChoose={(ids) => draft.setDefault("device_ids", ids)}
          />
        </fieldset>
      </div>
    </section>
  );
}

interface DevicesProperties {
  value: unknown;
  devices: Map<number, string>;
  /** null: none. */
  onChoose: (ids: number[] | null) => void;
}

/** Several devices: a button for each to remove it, and a list to add another. */
function Devices({ value, devices, onChoose }: DevicesProperties) {
  const chosen = asIds(value, devices);
  return (
    <div class="chips">
      {chosen.map((id) => (
        <button
          key={id}
          type="button"
          aria-label={`Remove ${devices.get(id) ?? `device ${id}`}`}
          onClick={() => onChoose(chosen.length > 1 ? chosen.filter((other) => other !== id) : null)}
        >
          {devices.get(id) ?? `Device ${id}`} ×
        </button>
      ))}
      <Choose
        label="Add a device"
        value=""
        none="Add a device…"
        options={Object.fromEntries([...devices].filter(([id]) => !chosen.includes(id)))}
        onChoose={(id) => id && onChoose([...chosen, Number(id)])}
      />
    </div>
  );
}

/** Ids as the portal stores them; other clients may have stored a text with ids or names. */
function asIds(value: unknown, devices: Map<number, string>): number[] {
  const text = String(value ?? "");
  const parts = text.split(/^[\d,; ]*$/.test(text) ? /[,; ]+/ : /\s*[;|]\s*/).filter(Boolean);
  const named = (part: string) => [...devices].find(([, name]) => name.toLowerCase() === part.toLowerCase())?.[0];
  return parts.map((part) => named(part) ?? Number(part)).filter((id) => !isNaN(id));
}

/** What the organization's words mean, such as Single family for Residential. */
function Words({ draft, devices }: PartProperties) {
  const upload = draft.upload.value;
  // Those without a value first; then each stays in its place, whatever value it gets.
  const placed = useSignal<Map<string, WordOf>>(new Map());
  const regions = useLoad((signal) => call("get", "/regions", { signal }), []);
  const version = draft.version.value;
  const mapped = mappedWords(upload);
  const unknown = useLoad(async (signal) => {
    const found = new Map<string, WordOf>();
    for await (const words of unknownWords(draft, signal)) {
      const fresh = words.map((word) => [`${word.field} ${word.text}`, word] as const);
      for (const [key, word] of fresh) found.set(key, word);
      // Thousands of rows take a while.
      placed.value = new Map([...placed.peek(), ...fresh]);
    }
    return found;
  }, [version]);
  const { data: { value: latest }, error: { value: error } } = unknown;
  useLayoutEffect(() => {
    if (!latest) return;
    const now = new Map([...latest, ...mapped]);
    placed.value = new Map([...[...placed.peek()].filter(([key]) => now.has(key)), ...now]);
  }, [latest]);
  const mayHaveOthers = unknown.busy.value && upload.problem_groups.some(({ code }) => Object.hasOwn(FIELD_OF_WORDS, code));
  const options: Record<string, Record<string, string>> = {
    building_type: BUILDING_TYPES,
    country_code: COUNTRIES,
    state_or_province_code: Object.fromEntries(
      regions.data.value?.regions.map((region) => [region.state_or_province_code, region.name]) ?? [],
    ),
  };
  const words = [...new Map([...placed.value, ...mapped])];
  const heading = useRef<HTMLHeadingElement>(null);
  useLayoutEffect(() => {
    if (query.peek().get("at") === "words") heading.current!.focus();
  }, []);
  return (
    <section class="card" aria-labelledby="words">
      <h2 id="words" ref={heading} tabIndex={-1}>What your words stand for</h2>
      <Problem error={error} onRetry={unknown.retry} />
      {words.length === 0 && !error && (mayHaveOthers ? <Loading /> : <p class="soft">Every value was understood.</p>)}
      <div class="words">
        {words.map(([key, { field, text }]) => {
          const value = mapped.get(key)?.value;
          const choose = (value: unknown) => draft.mapValue(field, text, value);
          const title = (
            <>
              {text} <small class="soft">{titleOf(field)}</small>
            </>
          );
          return field === "device_ids"
            ? (
              <fieldset key={key} class="plain">
                <legend>{title}</legend>
                <Devices value={value} devices={devices} onChoose={choose} />
              </fieldset>
            )
            : (
              <label key={key}>
                <span>{title}</span>
                <Choose
                  value={String(value ?? "")}
                  none={value ? "Nothing" : "Choose…"}
                  options={options[field] ?? {}}
                  onChoose={choose}
                />
              </label>
            );
        })}
      </div>
    </section>
  );
}

interface WordOf {
  field: string;
  text: string;
  /** undefined: none yet. */
  value?: unknown;
}

interface ChooseProperties {
  label?: string;
  /** Empty: none. Other clients may have set one that is not among the options. */
  value: string;
  none: string;
  options: Record<string, string>;
  onChoose: (value: string | null) => void;
}

function Choose({ label, value, none, options, onChoose }: ChooseProperties) {
  const shown = !value || Object.hasOwn(options, value) ? options : { ...options, [value]: value };
  return (
    <select
      aria-label={label}
      value={value}
      onKeyDown={openAtArrow}
      onChange={(event) => onChoose(event.currentTarget.value || null)}
    >
      <option value="">{none}</option>
      {Object.entries(shown).map(([key, title]) => <option key={key} value={key}>{title}</option>)}
    </select>
  );
}

/** The words with a meaning. */
function mappedWords({ value_maps }: Upload): Map<string, WordOf> {
  return new Map(
    Object.entries(value_maps).flatMap(([field, map]) =>
      Object.entries(map).map(([text, value]) => [`${field} ${text}`, { field, text, value }] as const)
    ),
  );
}

/** The words without a value yet, some of each field, as the rows are read. */
async function* unknownWords(draft: Draft, signal: AbortSignal): AsyncGenerator<WordOf[]> {
  const { columns, problem_groups } = draft.upload.peek();
  for (const [code, field] of Object.entries(FIELD_OF_WORDS)) {
    const column = columns.find((each) => each.field === field);
    const group = problem_groups.find((each) => each.code === code);
    if (!column || !group) continue;
    const known = new Set([""]);
    for await (const rows of draft.pages({ problem: code }, signal)) {
      const wrong = rows.filter(({ problems }) => problems.some((problem) => problem.code === code));
      const texts = new Set(wrong.map((row) => textOf(row, column.number).trim()));
      const fresh = [...texts].filter((text) => !known.has(text)).sort().slice(0, MOST_WORDS + 1 - known.size);
      for (const text of fresh) known.add(text);
      yield fresh.map((text) => ({ field, text }));
      if (known.size > MOST_WORDS) break;
    }
  }
}

/** The names of the devices by id. */
function useDevices(): Map<number, string> {
  const devices = useLoad((signal) => call("get", "/devices", { signal }), []);
  return new Map(devices.data.value?.devices.map(({ id, name }) => [id, name]));
}
