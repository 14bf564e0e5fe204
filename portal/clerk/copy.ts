// Copies Clerk's client and the parts that it loads by itself to the portal's files. Its parts have their hashes in their names; the client
// gets its version. `make portal` does it where CLERK_ISSUER is set, and the image has it always.
const source = new URL("node_modules/@clerk/clerk-js/", import.meta.url);
const target = new URL("../dist/", import.meta.url);

const { version } = JSON.parse(await Deno.readTextFile(new URL("package.json", source)));
await Deno.mkdir(target, { recursive: true });
for await (const { name } of Deno.readDir(target)) {
  if (/^clerk-|_clerk\./.test(name)) await Deno.remove(new URL(name, target));
}
for await (const { name } of Deno.readDir(new URL("dist/", source))) {
  if (name !== "clerk.browser.js" && !/_clerk\.browser_[\w.]+\.js$/.test(name)) continue;
  const copy = name === "clerk.browser.js" ? `clerk-${version}.js` : name;
  const content = await Deno.readFile(new URL(`dist/${name}`, source));
  const compressed = new Blob([content]).stream().pipeThrough(new CompressionStream("gzip"));
  await Deno.writeFile(new URL(copy, target), content);
  await Deno.writeFile(new URL(`${copy}.gz`, target), compressed);
}
