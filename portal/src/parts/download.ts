import { type Options, type PathsOf, save, send, whole } from "../api.ts";
import { notify } from "./announce.tsx";

/** Gives the user a file that needs the credential, which a plain link cannot send. */
export async function download<P extends PathsOf<"get">>(path: P, options: Options<P, "get">, name: string) {
  notify(`${name} is on its way…`);
  save(await whole((await send("get", path, options)).blob()), name);
  notify(`${name} is there`);
}
