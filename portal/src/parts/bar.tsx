import type { Schemas } from "../api.ts";
import { number, percent } from "../format.ts";

export interface Progress {
  status: Schemas["JobStatus"];
  total_items: number;
  processed_items: number;
  failed_items: number;
}

export const isOpen = ({ status }: { status: Schemas["JobStatus"] }) => status === "pending" || status === "processing";

/** The share that is done; 100% only once the batch has ended, including its report. */
export function doneShare(job: Progress): number {
  return isOpen(job) ? Math.min(job.processed_items / job.total_items, 0.99) : job.processed_items / job.total_items;
}

/** Completed, failed, in flight and waiting items, as one bar. */
export function Bar({ job, inFlight = 0 }: { job: Progress; inFlight?: number }) {
  const completed = job.processed_items - job.failed_items;
  const parts: [string, number][] = [["completed", completed], ["failed", job.failed_items], ["flight", inFlight]];
  return (
    <span
      class="bar"
      role="progressbar"
      aria-label="Progress"
      aria-valuemin={0}
      aria-valuemax={job.total_items}
      aria-valuenow={job.processed_items}
      aria-valuetext={`${percent(doneShare(job))}: ${number(completed)} completed and ${number(job.failed_items)} failed of ${
        number(job.total_items)
      }`}
    >
      {parts.map(([name, count]) => <i key={name} class={name} style={{ width: `${(count / job.total_items) * 100}%` }} />)}
    </span>
  );
}
