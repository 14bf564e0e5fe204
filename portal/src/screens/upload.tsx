// Uploads a file, which becomes a draft: the browser does not parse it.
import { type Signal, signal, useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { credential, Failure } from "../api.ts";
import { drop, type Sent, upload as send } from "../draft.ts";
import { isolated, percent } from "../format.ts";
import { announce, notify, teller } from "../parts/announce.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { Problem } from "../parts/misc.tsx";
import { go, whetherHere } from "../router.ts";
import { can, refusal, session, whetherSignedIn } from "../session.ts";
import { Drafts } from "./drafts.tsx";

// Browsers know the types of only some files, and disagree about others.
const TYPES: Record<string, string> = {
  csv: "text/csv",
  tsv: "text/tab-separated-values",
  txt: "text/csv",
  json: "application/json",
  ndjson: "application/x-ndjson",
  xlsx: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
  xlsm: "application/vnd.ms-excel.sheet.macroEnabled.12",
  xlsb: "application/vnd.ms-excel.sheet.binary.macroEnabled.12",
  xls: "application/vnd.ms-excel",
  ods: "application/vnd.oasis.opendocument.spreadsheet",
};
const TEMPLATE = URL.createObjectURL(
  new Blob([
    "reference_id,street_1,street_2,city,state_or_province_code,postal_code,country_code,building_type,device_ids\n" +
    "deal-001,123 Main St,,San Francisco,CA,94102,US,RESIDENTIAL,1\n",
  ]),
);

interface UnderWay {
  name: string;
  organization: string | undefined;
  /** How much of it has been sent, from 0 to 1. */
  sent: Signal<number>;
  cancel: () => void;
}

/** Uploads continue when the screen is left. */
const underWay = signal<UnderWay[]>([]);

export function Upload() {
  const error = useSignal<Error | undefined>(undefined);
  const busy = useSignal("");
  const over = useSignal(false);
  /** Sends the file again, if that may help. */
  const again = useRef<(() => void) | undefined>(undefined);

  async function upload(file: Sent) {
    const name = isolated(file.name);
    if (busy.peek()) return notify(`${busy.peek()} is still uploading: ${name} was not accepted.`);
    busy.value = name;
    announce(`Uploading ${name}`);
    error.value = undefined;
    const controller = new AbortController();
    const sent = signal(0);
    let isCancelled = false;
    const mine = { name, organization: session.peek()!.organization?.id, sent, cancel };
    underWay.value = [...underWay.peek(), mine];
    const as = credential.peek();
    const tell = teller();
    const isSignedIn = whetherSignedIn();
    function onSent(share: number) {
      const isNext = Math.floor(share * QUARTERS) > Math.floor(sent.peek() * QUARTERS);
      sent.value = share;
      if (isNext && isSignedIn()) announce(share < 1 ? `${percent(share)} of ${name} uploaded` : `${name} is being read`);
    }
    // The browser asks before the tab is closed or reloaded. Another file may go up after leaving the screen and coming back.
    const prevent = (event: Event) => event.preventDefault();
    addEventListener("beforeunload", prevent);
    function end() {
      underWay.value = underWay.peek().filter((each) => each !== mine);
      removeEventListener("beforeunload", prevent);
      busy.value = "";
    }
    function cancel() {
      isCancelled = true;
      end();
      notify(`The upload of ${name} is cancelled`);
      // Once the service has all of it, there will be a draft to delete.
      if (sent.peek() < 1) controller.abort();
    }
    const isHere = whetherHere();
    try {
      const draft = await send(file, "", { as, onSent, signal: controller.signal });
      if (isCancelled) {
        return await drop(draft, as).catch(() => tell(`${name} was uploaded before you cancelled it, and is among the drafts.`));
      }
      if (isHere()) go(["uploads", draft]);
      else tell(`${name} has been uploaded, and is among the drafts.`);
    } catch (failure) {
      if (isCancelled) return;
      again.current = failure instanceof Failure && failure.isPassing ? () => upload(file) : undefined;
      error.value = failure as Error;
      const lost = `${name} has not been uploaded.`;
      if (!isHere()) tell(`${lost} ${error.value!.message}`);
      // The key has ended meanwhile: said where users sign in again.
      if (!session.peek() && refusal.peek()) refusal.value += ` ${lost}`;
    }
    end();
  }
  function take(files: Iterable<File> | null | undefined) {
    const [file, ...others] = files ?? [];
    if (!file) return;
    const parts = file.name.toLowerCase().split(".");
    // The API recognizes a file with another name by its content.
    const type = TYPES[parts.at(-1)!] ?? TYPES[parts.at(-2)!] ?? "text/csv";
    if (others.length > 0 && !busy.peek()) notify(`One file at a time: ${isolated(file.name)} goes up, and no other one.`);
    upload({ content: file, name: file.name, type, keys: new Map() });
  }
  // Before the page is painted: what is visible is ready.
  useLayoutEffect(() => {
    if (!can("jobs:write")) return;
    function paste(event: ClipboardEvent) {
      if ((event.target as HTMLElement).closest("input:not([type=file]), textarea")) return;
      // Tabs at its start belong to columns without a title.
      const text = event.clipboardData!.getData("text/plain");
      // Excel copies a picture of the cells, too.
      const files = [...event.clipboardData!.files].filter(({ type }) => !type.startsWith("image/"));
      if (files.length) take(files);
      else if (text.trim()) {
        const type = /^\s*[[{]/.test(text) ? "application/json" : "text/csv";
        upload({ content: new Blob([text]), name: "Pasted rows", type, keys: new Map() });
      }
    }
    document.addEventListener("paste", paste);
    return () => document.removeEventListener("paste", paste);
  }, []);

  return (
    <>
      <div class="heading">
        <h1>New upload</h1>
        <CopyAs path="uploads?name=sites.csv" file="sites.csv" />
        <a class="button quiet" href={TEMPLATE} download="sites.csv">Template</a>
      </div>
      {can("jobs:write")
        ? (
          <label
            class={over.value ? "drop over" : "drop"}
            onDragOver={(event) => {
              event.preventDefault();
              over.value = true;
            }}
            onDragLeave={() => (over.value = false)}
            onDrop={(event) => {
              event.preventDefault();
              over.value = false;
              take(event.dataTransfer?.files);
            }}
          >
            <strong>{busy.value ? `Uploading ${busy.value}…` : "Drop a file here, choose one, or paste rows"}</strong>
            <span class="soft">CSV, Excel, NDJSON or JSON, with up to 10,000 sites. Nothing is looked up yet.</span>
            <input
              type="file"
              accept=".csv,.tsv,.txt,.xlsx,.xlsm,.xlsb,.xls,.ods,.json,.ndjson,.gz"
              aria-disabled={Boolean(busy.value)}
              onChange={(event) => {
                take(event.currentTarget.files);
                event.currentTarget.value = "";
              }}
            />
          </label>
        )
        : <p class="banner">You may see drafts, but not upload files.</p>}
      {underWay.value.map((each, place) => each.organization === session.value?.organization?.id && <Sending key={place} {...each} />)}
      <Problem error={error.value} onRetry={again.current} />
      <Drafts />
    </>
  );
}

/** A file on its way up; once all of it is sent, the service reads it. */
function Sending({ name, sent, cancel }: UnderWay) {
  const state = sent.value < 1 ? `${percent(sent.value)} sent` : "being read…";
  return (
    <section class="card sending" aria-label={`Upload of ${name}`}>
      <span>
        {name} <span class="soft">{state}</span>
      </span>
      <span
        class="bar"
        role="progressbar"
        aria-label={name}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(sent.value * 100)}
        aria-valuetext={state}
      >
        <i class="completed" style={{ width: `${sent.value * 100}%` }} />
      </span>
      <button type="button" onClick={cancel}>Cancel</button>
    </section>
  );
}

/** Screen readers hear of each. */
const QUARTERS = 4;
