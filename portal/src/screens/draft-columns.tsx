// Which column has which field, what stands in for cells that are empty, and what words stand for.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { type Draft, textOf, titleOf, TITLES } from "../draft.ts";
import { listed } from "../format.ts";
import { useLoad } from "../load.ts";

const HOW: Record<Schemas["ColumnMatch"], string> = {
  given: "as you said",
  remembered: "as in an earlier file",
  name: "by its name",
  ambiguous: "several columns fit",
};
/** Fields whose texts can stand for a value, and the code of those that stand for none. */
const WORDS: Record<string, string> = {
  building_type: "unknown_building_type",
  device_ids: "invalid_device_ids",
  state_or_province_code: "unknown_state",
  country_code: "unknown_country",
};
const BUILDING_TYPES = {
  RESIDENTIAL: "Residential",
  MULTIFAMILY: "Multifamily",
  MANUFACTURED_HOME: "Manufactured home",
  COMMERCIAL: "Commercial",
};
const COUNTRIES = { US: "United States", CA: "Canada" };
const MOST_WORDS = 50;

export function Columns({ draft }: { draft: Draft }) {
  const upload = draft.upload.value;
  const devices = useDevices();
  const used = new Set(upload.columns.map(({ field }) => field));
  const misses = (...fields: string[]) => fields.some((field) => upload.missing_fields.includes(field));
  return (
    <>
      {upload.missing_fields.length > 0 && (
        <p class="banner">
          No column was found for {listed(upload.missing_fields.map(titleOf))}. Say below which one it is
          {misses("building_type", "device_ids") && ", or give a default"}.
          {misses("city", "state_or_province_code", "postal_code") && " A column with the whole address becomes Street."}
          {misses("reference_id") &&
            " If no column tells your sites apart, add one to your file, such as 001, 002, 003, and upload it again."}
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
                  onChange={(event) => {
                    const field = event.currentTarget.value;
                    if (field) draft.map(field, column.number);
                    else if (column.field) draft.map(column.field, null);
                  }}
                >
                  <option value="">Kept as it is</option>
                  {Object.entries(TITLES).map(([field, title]) => (
                    <option key={field} value={field}>
                      {title}
                      {used.has(field) && field !== column.field ? " (instead)" : ""}
                    </option>
                  ))}
                  {column.field && !(column.field in TITLES) && <option value={column.field}>{titleOf(column.field)}</option>}
                </select>
              </td>
              <td class="soft samples" data-label="First values">{column.samples?.join(" · ")}</td>
              <td class={column.how === "ambiguous" ? "warn" : "soft"} data-label="Why">
                {column.how ? HOW[column.how] : "comes back with the results"}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <div class="two">
        <Defaults draft={draft} devices={devices} />
        <Words draft={draft} devices={devices} />
      </div>
    </>
  );
}

interface PartProperties {
  draft: Draft;
  /** Their names by id. */
  devices: Map<number, string>;
}

function Defaults({ draft, devices }: PartProperties) {
  const { defaults } = draft.upload.value;
  const chosen = asIds(defaults.device_ids);
  return (
    <section class="card" aria-labelledby="defaults">
      <h2 id="defaults">Where a cell is empty</h2>
      <div class="fields">
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
          <div class="chips">
            {chosen.map((id) => (
              <button
                key={id}
                type="button"
                aria-label={`Remove ${devices.get(id) ?? `device ${id}`}`}
                onClick={() => draft.setDefault("device_ids", or(chosen.filter((other) => other !== id)))}
              >
                {devices.get(id) ?? `Device ${id}`} ×
              </button>
            ))}
            <Choose
              label="Add a device"
              value=""
              none="Add a device…"
              options={Object.fromEntries([...devices].filter(([id]) => !chosen.includes(id)))}
              onChoose={(value) => value && draft.setDefault("device_ids", [...chosen, Number(value)])}
            />
          </div>
        </fieldset>
      </div>
    </section>
  );
}

function or(ids: number[]): number[] | null {
  return ids.length ? ids : null;
}

function asIds(value: unknown): number[] {
  if (Array.isArray(value)) return value.map(Number);
  return typeof value === "string" ? value.split(/[,; ]+/).filter(Boolean).map(Number) : [];
}

/** What the organization's words stand for, such as Single family for Residential. */
function Words({ draft, devices }: PartProperties) {
  const upload = draft.upload.value;
  const unknown = useSignal<[field: string, texts: string[]][]>([]);
  const regions = useLoad((signal) => call("get", "/regions", { signal }), []);
  const version = draft.version.value;
  useEffect(() => {
    let current = true;
    unknownWords(draft).then((found) => current && (unknown.value = found), () => {});
    return () => {
      current = false;
    };
  }, [version]);
  const options: Record<string, Record<string, string>> = {
    building_type: BUILDING_TYPES,
    country_code: COUNTRIES,
    device_ids: Object.fromEntries(devices),
    state_or_province_code: Object.fromEntries(
      regions.data.value?.regions.map((region) => [region.state_or_province_code, region.name]) ?? [],
    ),
  };
  const mapped = Object.entries(upload.value_maps).flatMap(([field, map]) =>
    Object.entries(map).map(([text, value]) => ({ field, text, value: String(value) }))
  );
  const isMapped = (field: string, text: string) => mapped.some((word) => word.field === field && word.text === text);
  const words = [
    ...unknown.value.flatMap(([field, texts]) =>
      texts.filter((text) => !isMapped(field, text)).map((text) => ({ field, text, value: "" }))
    ),
    ...mapped,
  ];
  return (
    <section class="card" aria-labelledby="words">
      <h2 id="words">What your words stand for</h2>
      {words.length === 0 && <p class="soft">Every value was understood.</p>}
      <div class="words">
        {words.map(({ field, text, value }) => (
          <Word
            key={`${field} ${text}`}
            field={field}
            text={text}
            value={value}
            options={options[field] ?? {}}
            onChoose={(value) => draft.mapValue(field, text, value)}
          />
        ))}
      </div>
    </section>
  );
}

interface WordProperties {
  field: string;
  text: string;
  /** Empty: none yet. */
  value: string;
  options: Record<string, string>;
  onChoose: (value: unknown) => void;
}

function Word({ field, text, value, options, onChoose }: WordProperties) {
  const shown = value in options || !value ? options : { ...options, [value]: value };
  return (
    <label>
      <span>
        {text} <small class="soft">{titleOf(field)}</small>
      </span>
      <Choose
        value={value}
        none={value ? "Nothing" : "Choose…"}
        options={shown}
        onChoose={(chosen) => onChoose(chosen && field === "device_ids" ? chosen.split(",").map(Number) : chosen)}
      />
    </label>
  );
}

interface ChooseProperties {
  label?: string;
  value: string;
  none: string;
  options: Record<string, string>;
  onChoose: (value: string | null) => void;
}

function Choose({ label, value, none, options, onChoose }: ChooseProperties) {
  return (
    <select aria-label={label} value={value} onChange={(event) => onChoose(event.currentTarget.value || null)}>
      <option value="">{none}</option>
      {Object.entries(options).map(([key, title]) => <option key={key} value={key}>{title}</option>)}
    </select>
  );
}

/** The texts that stand for no value yet, by field: of each, some. */
async function unknownWords(draft: Draft): Promise<[string, string[]][]> {
  const { columns, problem_groups } = draft.upload.peek();
  const found: [string, string[]][] = [];
  for (const [field, code] of Object.entries(WORDS)) {
    const column = columns.find((each) => each.field === field);
    const group = problem_groups.find((each) => each.code === code);
    if (!column || !group) continue;
    const texts = new Set<string>();
    for await (const row of draft.all({ problem: code })) {
      const text = textOf(row, column.number).trim();
      if (text && row.problems.some((problem) => problem.code === code)) texts.add(text);
      if (texts.size === MOST_WORDS) break;
    }
    if (texts.size) found.push([field, [...texts].sort()]);
  }
  return found;
}

/** The names of the devices by id. */
function useDevices(): Map<number, string> {
  const devices = useLoad((signal) => call("get", "/devices", { signal }), []);
  return new Map(devices.data.value?.devices.map(({ id, name }) => [id, name]));
}
