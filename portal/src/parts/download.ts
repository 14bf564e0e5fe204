import { address, type Options, type PathsOf, PATIENCE_WITH_FILES, save, send, whole } from "../api.ts";
import { isolated } from "../format.ts";
import { teller } from "./announce.tsx";

/** Downloads in progress, by URL. */
const underWay = new Set<string>();

/** Downloads a file that requires the credential, which a plain link cannot send. */
export async function download<P extends PathsOf<"get">>(path: P, options: Options<P, "get">, name: string) {
  const { href } = address(path, options.path, options.query);
  if (underWay.has(href)) return;
  underWay.add(href);
  const tell = teller();
  const shown = isolated(name);
  try {
    const file = send("get", path, options).then((response) => whole(response.blob(), undefined, PATIENCE_WITH_FILES));
    tell(`${shown} is on its way…`, file);
    save(await file, name);
    tell(`${shown} is there`);
  } finally {
    underWay.delete(href);
  }
}
