// Drafts that wait to be repaired or started.
import { call } from "../api.ts";
import { counted, number } from "../format.ts";
import { useLoad } from "../load.ts";
import { Time } from "../parts/misc.tsx";
import { href } from "../router.ts";

/** The drafts of the organization, newest first; `empty` where there is none. */
export function Drafts({ empty }: { empty?: string }) {
  const drafts = useLoad((signal) => call("get", "/uploads", { query: { status: "draft", limit: 50 }, signal }), []);
  const uploads = drafts.data.value?.uploads ?? [];
  if (uploads.length === 0) return drafts.data.value && empty ? <p class="empty">{empty}</p> : null;
  return (
    <section aria-labelledby="drafts">
      <h2 id="drafts">Drafts</h2>
      <table class="rows drafts">
        <thead>
          <tr>
            <th>Draft</th>
            <th class="number">Ready</th>
            <th class="number">To repair</th>
            <th>Uploaded</th>
            <th>Kept until</th>
          </tr>
        </thead>
        <tbody>
          {uploads.map((upload) => (
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
          ))}
        </tbody>
      </table>
    </section>
  );
}
