// Drafts that wait to be repaired or started.
import { useEffect } from "preact/hooks";
import { call } from "../api.ts";
import { onDrafts } from "../draft.ts";
import { counted, number } from "../format.ts";
import { List, usePages } from "../parts/list.tsx";
import { Time } from "../parts/misc.tsx";
import { href } from "../router.ts";

/** The drafts of the organization, newest first; `empty` if there are none. */
export function Drafts({ empty }: { empty?: string }) {
  const pages = usePages(async (page, signal) => {
    const { uploads: rows, total, next_cursor } = await call("get", "/uploads", { query: { status: "draft", ...page }, signal });
    return { rows, total, next_cursor };
  }, []);
  useEffect(() => onDrafts(pages.refresh), []);
  if (!empty && !pages.data.value?.[0]?.rows.length) return null;
  return (
    <section aria-labelledby="drafts">
      <h2 id="drafts">Drafts</h2>
      <List
        pages={pages}
        columns={["Draft", "#Ready", "#To repair", "Uploaded", "Kept until"]}
        class="drafts"
        empty={empty}
        row={(upload) => (
          <tr key={upload.id}>
            <td>
              <a class="main-link" href={href(["uploads", upload.id])}>{upload.name ?? "Without a name"}</a>
              <small>{counted(upload.total_rows, "row")}</small>
            </td>
            <td class="number" data-label="Ready">{number(upload.valid_rows)}</td>
            <td class="number" data-label="To repair">
              {upload.invalid_rows > 0 ? <span class="alert">{number(upload.invalid_rows)}</span> : "0"}
            </td>
            <td data-label="Uploaded">
              <Time at={upload.created_at} />
            </td>
            <td data-label="Kept until">
              <Time at={upload.expires_at} />
            </td>
          </tr>
        )}
      />
    </section>
  );
}
