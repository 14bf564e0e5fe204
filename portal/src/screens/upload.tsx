import { useSignal } from "@preact/signals";
import { type Failure, send } from "../api.ts";
import { counted } from "../format.ts";
import { Problem } from "../parts/misc.tsx";
import { go } from "../router.ts";

const TYPES: Record<string, string> = {
  csv: "text/csv",
  json: "application/json",
  ndjson: "application/x-ndjson",
  xlsx: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
};

/** A file that is right goes up as it is. */
export function Upload() {
  const error = useSignal<Failure | undefined>(undefined);
  const busy = useSignal(false);
  const over = useSignal(false);

  async function upload(file: File) {
    busy.value = true;
    error.value = undefined;
    try {
      const type = TYPES[file.name.split(".").pop()!.toLowerCase()] ?? file.type;
      const response = await send("post", "/batch-lookups", {
        query: { name: file.name },
        headers: { "content-type": type, "idempotency-key": crypto.randomUUID() },
        file,
      });
      go(["batches", (await response.json()).job_id]);
    } catch (failure) {
      error.value = failure as Failure;
    }
    busy.value = false;
  }

  const problems = error.value?.body.invalid_items ?? [];
  return (
    <>
      <div class="heading">
        <h1>New upload</h1>
      </div>
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
          const [file] = event.dataTransfer?.files ?? [];
          if (file) upload(file);
        }}
      >
        <strong>{busy.value ? "Uploading…" : "Drop a file here, or choose one"}</strong>
        <span class="soft">CSV, Excel, NDJSON or JSON, with up to 10,000 sites</span>
        <input
          type="file"
          accept=".csv,.tsv,.txt,.xlsx,.xls,.ods,.json,.ndjson,.gz"
          disabled={busy}
          onChange={(event) => {
            const [file] = event.currentTarget.files ?? [];
            event.currentTarget.value = "";
            if (file) upload(file);
          }}
        />
      </label>
      <Problem error={error.value} />
      {problems.length > 0 && (
        <section class="card">
          <h2>{counted(error.value!.body.total_invalid!, "site")} with problems</h2>
          <table class="rows">
            <thead>
              <tr>
                <th class="number">Line</th>
                <th>Problem</th>
              </tr>
            </thead>
            <tbody>
              {problems.map((problem) => (
                <tr key={problem.index}>
                  <td class="number">{problem.line ?? problem.index + 1}</td>
                  <td>{problem.error}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </>
  );
}
