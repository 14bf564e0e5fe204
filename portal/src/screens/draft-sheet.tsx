// Which sheet of a workbook was read, and a choice of another: the file is uploaded again, because the service keeps only the rows that it
// read.
import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { credential } from "../api.ts";
import { type Draft, drop, fileOf, type Sent, sheetsOf, upload as send } from "../draft.ts";
import { isolated } from "../format.ts";
import { teller } from "../parts/announce.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Problem } from "../parts/misc.tsx";
import { href, path, replace, whetherHere } from "../router.ts";
import { can } from "../session.ts";

interface Properties {
  draft: Draft;
  /** Whether a sheet can be chosen here; elsewhere it is only shown. */
  choose: boolean;
}

export function Sheet({ draft, choose }: Properties) {
  const upload = draft.upload.value;
  const read = sheetsOf(upload);
  const file = fileOf(upload);
  if (!read) return null;
  if (choose && file && can("jobs:write")) return <Choice draft={draft} file={file} {...read} />;
  return (
    <p class="banner">
      The sheet <strong>{read.sheet}</strong> was read, one of {read.sheets.length} with rows.{" "}
      {can("jobs:write") && (file ? <a href={href(path.value, { step: "columns" })}>Choose another</a> : (
        <>
          To read another one, <a href={href(["upload"])}>drop the file again</a>.
        </>
      ))}
    </p>
  );
}

/** The draft that replaced one with another sheet: the keyboard focus continues there. */
let fresh = "";

interface ChoiceProperties {
  draft: Draft;
  file: Sent;
  sheet: string;
  sheets: string[];
}

function Choice({ draft, file, sheet, sheets }: ChoiceProperties) {
  const { id, created_at, updated_at } = draft.upload.value;
  const select = useRef<HTMLSelectElement>(null);
  const error = useSignal<Error | undefined>(undefined);
  /** Empty: nothing is requested or in progress. */
  const asked = useSignal("");
  const wanted = useSignal("");
  useLayoutEffect(() => {
    if (fresh === id) select.current!.focus();
    fresh = "";
  }, []);

  async function read(name: string) {
    const isReading = wanted.peek() !== "";
    asked.value = "";
    wanted.value = name;
    // The arrow keys step through other sheets.
    if (isReading) return;
    error.value = undefined;
    const as = credential.peek();
    const isHere = whetherHere();
    const tell = teller();
    let latest = id;
    try {
      let made;
      do {
        made = wanted.peek();
        const sending = send(file, made, { as });
        tell(`Reading the sheet ${isolated(made)}…`, sending);
        const next = await sending;
        // It may already be gone.
        await drop(latest, as).catch(() => {});
        latest = next;
      } while (made !== wanted.peek());
      tell(`The sheet ${isolated(made)} was read`);
    } catch (failure) {
      error.value = failure as Error;
      tell(latest === id ? "" : error.peek()!.message);
    }
    wanted.value = "";
    if (latest === id || !isHere()) return;
    fresh = latest;
    replace(["uploads", latest], { step: "columns" });
  }
  return (
    <>
      <label class="sheet">
        Sheet
        <select
          ref={select}
          value={wanted.value || asked.value || sheet}
          aria-busy={wanted.value !== ""}
          onChange={(event) => {
            const name = event.currentTarget.value;
            const isChanged = updated_at !== created_at || draft.hasUnsaved();
            if (!isChanged || wanted.peek()) read(name);
            else asked.value = name;
          }}
        >
          {sheets.map((name) => <option key={name} value={name}>{name}</option>)}
        </select>
      </label>
      <Problem error={error.value} />
      {asked.value && (
        <Dialog
          title={`Read the sheet ${isolated(asked.value)}?`}
          onClose={() => (asked.value = "")}
          actions={
            <>
              <button type="button" onClick={() => (asked.value = "")}>Keep {sheet}</button>
              <button type="button" class="danger" onClick={() => read(asked.peek())}>Read it</button>
            </>
          }
        >
          <p>The draft starts over: your choices of columns and changes to rows are lost.</p>
        </Dialog>
      )}
    </>
  );
}
