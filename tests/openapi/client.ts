// What a user of openapi-typescript and openapi-fetch writes: an upload, its items, a report. Compiled strictly, run against a server.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./schema.js";

declare const process: { argv: string[] };
const [baseUrl, apiKey] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl, headers: { "x-api-key": apiKey } });

const item: components["schemas"]["BatchItem"] = {
  reference_id: "deal-001",
  address: { street_1: "200 N Spring St", city: "Los Angeles", state_or_province_code: "CA", postal_code: "90012", country_code: "US" },
  building_type: "RESIDENTIAL",
  device_ids: [1],
};
const rows =
  "Deal ID,Street Address,City,State,ZIP,Building Type,Device IDs\n" +
  "deal-002,200 N Spring St,Los Angeles,CA,90012,RESIDENTIAL,1\n";

const created = await client.POST("/batch-lookups", { body: { items: [item] } });
const uploaded = await client.POST("/batch-lookups", {
  body: rows,
  bodySerializer: (body) => body,
  headers: { "Content-Type": "text/csv" },
});
if (!created.data || !("job_id" in created.data)) throw new Error(JSON.stringify(created.error));
if (!uploaded.data || !("job_id" in uploaded.data)) throw new Error(JSON.stringify(uploaded.error));

const job_id: string = created.data.job_id;
const job = await client.GET("/batch-lookups/{job_id}", { params: { path: { job_id } } });
const items = await client.GET("/batch-lookups/{job_id}/items", { params: { path: { job_id }, query: { status: "pending" } } });
const report = await client.GET("/incentive-reports/{report_id}", { params: { path: { report_id: created.data.report.id } } });
const cancelled = await client.POST("/batch-lookups/{job_id}/cancel", { params: { path: { job_id } } });
const again = await client.POST("/batch-lookups/{job_id}/cancel", { params: { path: { job_id } } });
const lookup: components["schemas"]["LookupRequest"] = { ...item, operation_type: "lookup" };
const looked_up = await client.POST("/incentives", { body: lookup });
type Jobs = operations["listBatchLookups"]["responses"][200]["content"]["application/json"]["jobs"];
const status: Jobs[number]["status"] | undefined = job.data?.status;

console.log(
  JSON.stringify({
    status,
    uploaded: uploaded.data.total_items,
    streets: items.data?.items.map((one) => one.address.street_1),
    sites: report.data?.sites.length,
    message: cancelled.data?.message,
    code: again.error?.code,
    utility: looked_up.data?.utility.name,
  }),
);
