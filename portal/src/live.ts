// Live changes, through Supabase's own client against our endpoint; polls if no WebSocket gets through.
import { effect, signal, untracked } from "@preact/signals";
import { RealtimeClient } from "@supabase/realtime-js";
import { API, type Credential, credential, Failure } from "./api.ts";

/** How changes arrive now; `off`: nothing is watched; `away`: the service does not respond, and what is shown may be outdated. */
export const connection = signal<"off" | "connecting" | "live" | "polling" | "away">("off");

/** Whether the browser is offline, and cut off from the service. A WebSocket takes a while to notice. */
export const offline = signal(false);
addEventListener("online", () => (offline.value = false));
addEventListener("offline", () => {
  // A service on the same machine is reachable without a network.
  fetch(new URL("portal/config.json", API), { cache: "no-store" }).catch(() => (offline.value = !navigator.onLine));
});

/** Columns of public.batch_lookup_jobs that the screens use. */
export interface JobRow {
  id: string;
  status: "pending" | "processing" | "completed" | "failed" | "cancelled";
  processed_items: number;
  failed_items: number;
  started_at: string | null;
  completed_at: string | null;
}
/** Columns of public.incentive_reports that the screens use. */
export interface ReportRow {
  id: string;
  status: "processing" | "complete" | "error";
  total_sites: number;
  eligible_sites: number;
  total_incentive_value: number;
}

interface Watch {
  table: "batch_lookup_jobs" | "incentive_reports";
  /** Such as `id=eq.5a8b...`. Row-level security limits it to the organization anyway. */
  filter?: string;
  /** The new row; null: it was deleted, or changes may have been missed, so read again. */
  onChange: (row: JobRow & ReportRow | null) => void;
}

/** Bound to a credential; an operator has none. */
const client = signal<RealtimeClient | undefined>(undefined);
let channels = 0;

effect(() => {
  const used = credential.value;
  const before = client.peek();
  client.value = used && used.kind !== "internal" ? clientFor(used) : undefined;
  // Once the watches have left it.
  queueMicrotask(() => before?.disconnect());
});

function clientFor(used: Exclude<Credential, { kind: "internal" }>): RealtimeClient {
  const endpoint = new URL("realtime/v1", API);
  endpoint.protocol = endpoint.protocol.replace("http", "ws");
  return new RealtimeClient(endpoint.href, {
    params: { apikey: used.kind === "api_key" ? used.key : "session" },
    accessToken: () => used.kind === "api_key" ? Promise.resolve(used.key) : used.token(),
    timeout: 5000,
    heartbeatIntervalMs: 15_000,
  });
}

/**
 * Watches rows until the returned function is called. While there is no connection, `poll` is called repeatedly: it either waits for a
 * change itself (a long poll), or returns how many seconds to wait before the next call.
 */
export function watch(watches: Watch[], poll: (abort: AbortSignal) => Promise<number | void>): () => void {
  const ended = new AbortController();
  let polling: AbortController | undefined;

  async function startPolling() {
    if (polling || ended.signal.aborted) return;
    const mine = polling = new AbortController();
    connection.value = "polling";
    while (!mine.signal.aborted) {
      let seconds: number | void = 5;
      try {
        seconds = await poll(mine.signal);
        if (!mine.signal.aborted) connection.value = "polling";
      } catch (error) {
        // Other errors are shown by the screen; the next call may succeed.
        if (!mine.signal.aborted && error instanceof Failure && error.isPassing) connection.value = "away";
      }
      await new Promise((resolve) => setTimeout(resolve, (seconds ?? 0.2) * 1000));
    }
  }
  function stopPolling() {
    polling?.abort();
    polling = undefined;
  }

  /** Returns a function that ends it. */
  function subscribe(to: RealtimeClient): () => void {
    let isOver = false;
    const channel = to.channel(`portal-${++channels}`);
    for (const { table, filter, onChange } of watches) {
      channel.on("postgres_changes", { event: "*", schema: "public", table, filter }, (change) => {
        onChange(change.eventType === "DELETE" ? null : change.new as JobRow & ReportRow);
      });
    }
    channel.subscribe((status) => {
      if (isOver) return;
      if (status === "SUBSCRIBED") {
        stopPolling();
        connection.value = "live";
        // Nothing is replayed: changes since the screen was loaded, or while the connection was away, have to be read.
        for (const { onChange } of watches) onChange(null);
      } else startPolling();
    });
    return () => {
      isOver = true;
      to.removeChannel(channel);
    };
  }

  connection.value = "connecting";
  // The key of the session may be replaced meanwhile.
  const unsubscribe = effect(() => {
    const current = client.value;
    return untracked(() => {
      if (current) return subscribe(current);
      if (credential.peek()) startPolling();
    });
  });

  return () => {
    ended.abort();
    stopPolling();
    unsubscribe();
    connection.value = "off";
  };
}
