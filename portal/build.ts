// Builds the portal into `dist`: types from openapi.json, one script and one style sheet with hashes in their names, gzip beside each.
//
//   deno task build    checks the types first
//   deno task dev      builds again whenever a file changes, and lets open pages reload
import * as esbuild from "esbuild";
import openapiTS, { astToString } from "openapi-typescript";

const watch = Deno.args.includes("--watch");
const folder = new URL(".", import.meta.url);
const dist = new URL("dist/", folder);
Deno.chdir(folder);

const description = JSON.parse(await Deno.readTextFile("../openapi.json"));
await Deno.writeTextFile("src/api.d.ts", astToString(await openapiTS(description)));
if (!watch) await checkTypes();

const options: esbuild.BuildOptions = {
  entryPoints: ["src/main.tsx", "style.css"],
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  entryNames: "[name]-[hash]",
  outdir: "dist",
  metafile: true,
  legalComments: "none",
  define: { DEVELOPMENT: String(watch) },
  ...(watch ? { sourcemap: "inline" } : { minify: true }),
  plugins: [{ name: "finish", setup: (build) => build.onEnd(finish) }],
};
if (watch) {
  // esbuild's own watching looks at some files at a time, and may take seconds to come to the one that was changed.
  const context = await esbuild.context(options);
  const build = () => context.rebuild().catch(() => {});
  await build();
  let timer = 0;
  for await (const { kind } of Deno.watchFs(["src", "style.css", "index.html"])) {
    if (kind === "access") continue;
    clearTimeout(timer);
    timer = setTimeout(build, 10);
  }
} else {
  await esbuild.build(options);
  await esbuild.stop();
}

async function checkTypes() {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args: ["check", "--frozen", "--quiet", "src/main.tsx"] }).output();
  if (!success) {
    console.error(new TextDecoder().decode(stderr));
    Deno.exit(1);
  }
}

/** Writes index.html, which names the files, after them, and deletes those of earlier builds last: a page is never half there. */
async function finish(result: esbuild.BuildResult) {
  if (result.errors.length > 0) return;
  const files = Object.keys(result.metafile!.outputs).map((path) => path.slice("dist/".length));
  const named = (name: string, extension: string) => files.find((file) => file.startsWith(`${name}-`) && file.endsWith(extension))!;
  const page = await Deno.readTextFile("index.html");
  await Deno.writeTextFile(
    new URL("index.html", dist),
    page.replace("portal/main.js", `portal/${named("main", ".js")}`).replace("portal/style.css", `portal/${named("style", ".css")}`),
  );
  const current = new Set<string>();
  for (const file of [...files, "index.html"]) {
    current.add(file);
    if (watch) continue;
    current.add(`${file}.gz`);
    await compress(file);
  }
  for await (const entry of Deno.readDir(dist)) {
    if (!current.has(entry.name) && !/^\.|clerk/.test(entry.name)) await Deno.remove(new URL(entry.name, dist));
  }
  if (watch) console.log(`built ${files.join(", ")}`);
}

async function compress(file: string) {
  const compressed = new Blob([await Deno.readFile(new URL(file, dist))]).stream().pipeThrough(new CompressionStream("gzip"));
  await Deno.writeFile(new URL(`${file}.gz`, dist), compressed);
}
