// Calls of the public API, typed by openapi.json: a path, a parameter or a member that it lacks fails the build.
import type { components, paths } from "./api.d.ts";
import { signal } from "@preact/signals";

export type Schemas = components["schemas"];
export type Scope = Schemas["Scope"];

export type Credential =
  | { kind: "api_key"; key: string }
  /** The operator's own credential. */
  | { kind: "internal"; key: string }
  | { kind: "session"; token: () => Promise<string | null> };

export const credential = signal<Credential | null>(null);
/** Called when the API no longer accepts the credential. */
export const whenRefused = { run: (_message: string) => {} };

/** The API's URL: the page is at `portal` below it, whatever the prefix. */
export const API = new URL(".", document.baseURI);

type Methods = "get" | "post" | "put" | "patch" | "delete";
type Operation<P extends keyof paths, M extends Methods> = NonNullable<paths[P][M]>;
export type PathsOf<M extends Methods> = { [P in keyof paths]: [Operation<P, M>] extends [never] ? never : P }[keyof paths];

type Content<R> = R extends { content: { "application/json": infer Body } } ? Body : never;
export type Answer<P extends keyof paths, M extends Methods> = Operation<P, M> extends { responses: infer R }
  ? Content<R[keyof R & (200 | 201 | 202)]>
  : never;
type Parameters<P extends keyof paths, M extends Methods, Place extends string> = Operation<P, M> extends
  { parameters: { [K in Place]?: infer V } } ? NonNullable<V> : never;
type Body<P extends keyof paths, M extends Methods> = Operation<P, M> extends { requestBody?: { content: { "application/json": infer B } } }
  ? B
  : never;

export interface Options<P extends keyof paths, M extends Methods> {
  path?: Parameters<P, M, "path">;
  query?: Parameters<P, M, "query">;
  headers?: Record<string, string>;
  body?: Body<P, M>;
  /** A file, instead of `body`. */
  file?: File | Blob;
  /** Told how much of the file has been sent, from 0 to 1. */
  onSent?: (share: number) => void;
  /** Overrides the session's. */
  as?: Credential;
  signal?: AbortSignal;
}

/** An unsuccessful response; `status` 0: there was none. */
export class Failure extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = "",
    readonly hint = "",
    readonly body: Partial<Schemas["InvalidBatch"]> = {},
  ) {
    super(message);
  }

  /**
   * Whether it may be temporary: the service was not reached, there are too many requests, the service or a proxy before it is down, or the
   * request that this one repeats is still in progress.
   */
  get isPassing(): boolean {
    return [0, 429, 502, 503, 504].includes(this.status) || this.isInProgress;
  }

  get isInProgress(): boolean {
    return this.code === "request_in_progress";
  }
}

const ATTEMPTS = 4;
/** This many take half a minute, after which the service has ended the request in progress. */
const ATTEMPTS_IN_PROGRESS = 7;

/** How long to wait for the start of a response, and for its end, in milliseconds: twice the service's own limit. Files may take longer. */
const PATIENCE = 60_000;
export const PATIENCE_WITH_FILES = 10 * PATIENCE;

/** How far the service's clock is ahead of this one; a few seconds may be the response's travel time. */
let ahead = 0;
const MOST_ON_THE_WAY = 5000;

/** The time of the service, for comparison with all times that it returns. */
export const serviceTime = () => Date.now() + ahead;

/** A key with which a request can be repeated without taking effect twice. Over HTTP, browsers have no crypto.randomUUID(). */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The body of the response. Reads, and requests with a key, are repeated while the service is briefly busy or down. Throws Failure. */
export async function call<M extends Methods, P extends PathsOf<M>>(
  method: M,
  path: P,
  options: Options<P, M> = {},
): Promise<Answer<P, M>> {
  const response = await send(method, path, options);
  return await whole(response.json(), options.signal);
}

/** The body of a response that has begun. Throws Failure if it ends prematurely, or takes longer than `patience` milliseconds. */
export async function whole<T>(body: Promise<T>, signal?: AbortSignal, patience = PATIENCE): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => timer = setTimeout(reject, patience));
  try {
    return await Promise.race([body, late]);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(0, "The response was cut off.", "cut_off", "Check the connection, and try again.");
  } finally {
    clearTimeout(timer);
  }
}

/** Like `call`, but returns the whole response: for files, and for the headers. 304 is returned, too. */
export async function send<M extends Methods, P extends PathsOf<M>>(method: M, path: P, options: Options<P, M> = {}): Promise<Response> {
  const url = address(path, options.path, options.query);
  const headers = new Headers(options.headers);
  let body: BodyInit | undefined = options.file;
  if (options.body !== undefined) {
    body = JSON.stringify(options.body);
    headers.set("content-type", "application/json");
  }
  const repeatable = method === "get" || headers.has("idempotency-key");
  // Another organization may have signed in before a later attempt.
  const used = options.as ?? credential.peek();
  for (let attempt = 1;; attempt++) {
    const failure = await once(url, method, headers, body, used, options);
    if (failure instanceof Response) return failure;
    const most = failure.isInProgress ? ATTEMPTS_IN_PROGRESS : ATTEMPTS;
    if (!repeatable || !failure.isPassing || failure.code === "no_answer" || attempt >= most) throw failure;
    await pause(failure.retryAfter ?? 2 ** attempt / 4, options.signal);
  }
}

async function once(
  url: URL,
  method: string,
  headers: Headers,
  body: BodyInit | undefined,
  used: Credential | null,
  { signal, onSent }: { signal?: AbortSignal; onSent?: (share: number) => void },
): Promise<Response | Failure & { retryAfter?: number }> {
  const patience = new AbortController();
  const timer = body instanceof Blob ? undefined : setTimeout(() => patience.abort(), PATIENCE);
  const either = AbortSignal.any(signal ? [signal, patience.signal] : [patience.signal]);
  let response;
  try {
    // Clerk is asked for a token here, and may be unreachable as well.
    for (const [name, value] of Object.entries(await credentialHeaders(used))) headers.set(name, value);
    response = await (onSent ? sendFile : fetch)(url, { method: method.toUpperCase(), headers, body, signal: either, onSent });
  } catch (error) {
    if (signal?.aborted) throw error;
    if (patience.signal.aborted) {
      const hint = method === "get" ? "Try again in a moment." : "Check whether it was done, and try again if not.";
      return new Failure(0, "The service is not responding.", "no_answer", hint);
    }
    return new Failure(0, "The service cannot be reached.", "unreachable", "Check the connection, and try again.");
  } finally {
    clearTimeout(timer);
  }
  const difference = Date.parse(response.headers.get("date") ?? "") - Date.now();
  // The browser may have kept such a response, with the time when it came.
  const mayBeOld = /max-age=[1-9]/.test(response.headers.get("cache-control") ?? "");
  if (!mayBeOld) ahead = Math.abs(difference) > MOST_ON_THE_WAY ? difference : 0;
  if (response.ok || response.status === 304) return response;
  const told = await whole(response.json(), signal).catch(() => ({}));
  if (told.code === "request_in_progress") {
    return new Failure(response.status, "The service is still working on this.", told.code, "Try again in a moment.");
  }
  const failure = new Failure(response.status, told.error ?? `The service answered ${response.status}.`, told.code, told.hint, told);
  if (response.status === 401 && used === credential.peek()) whenRefused.run(failure.message);
  const after = Number(response.headers.get("retry-after"));
  return after > 0 ? Object.assign(failure, { retryAfter: Math.min(after, 30) }) : failure;
}

/** Like fetch, which does not tell how much has been sent. */
function sendFile(
  url: URL,
  { method, headers, body, signal, onSent }: {
    method: string;
    headers: Headers;
    body?: BodyInit;
    signal: AbortSignal;
    onSent?: (share: number) => void;
  },
): Promise<Response> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    request.open(method, url);
    request.responseType = "blob";
    headers.forEach((value, name) => request.setRequestHeader(name, value));
    request.upload.onprogress = ({ loaded, total }) => onSent!(loaded / total);
    request.onload = () => {
      const lines = request.getAllResponseHeaders().trim().split("\r\n");
      const given = lines.map((line) => line.split(/: (.*)/s).slice(0, 2) as [string, string]);
      resolve(new Response(request.response, { status: request.status, headers: given }));
    };
    request.onerror = () => reject(new TypeError("The request failed."));
    signal.addEventListener("abort", () => {
      request.abort();
      reject(signal.reason);
    }, { once: true });
    request.send(body as Blob);
  });
}

/** The URL of a path of the API. Throws Failure for an id that would lead to another path. */
export function address(path: string, inPath: Record<string, unknown> = {}, query: Record<string, unknown> = {}): URL {
  const filled = path.replace(/{(\w+)}/g, (_, name) => {
    const text = String(inPath[name]);
    // In a URL, these are steps, even if they are encoded.
    if (text === "." || text === "..") throw new Failure(404, "There is nothing at this address.", "not_found");
    return encodeURIComponent(text);
  });
  const url = new URL(filled.slice(1), API);
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") url.searchParams.append(name, String(each));
    }
  }
  return url;
}

export async function credentialHeaders(used: Credential | null): Promise<Record<string, string>> {
  if (used?.kind === "api_key") return { "x-api-key": used.key };
  if (used?.kind === "internal") return { authorization: `Bearer ${used.key}`, "x-supabase-internal": "true" };
  const token = await used?.token();
  return token ? { authorization: `Bearer ${token}` } : {};
}

export function pause(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(end, seconds * 1000);
    signal?.addEventListener("abort", end, { once: true });
    function end() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    }
  });
}

export function save(blob: Blob, name: string) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
