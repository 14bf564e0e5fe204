// Reads tokens, answers which of them @clerk/backend, installed in the working directory, takes.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const { verifyToken } = createRequire(join(process.cwd(), 'x.js'))('@clerk/backend');
const { tokens, ...options } = JSON.parse(readFileSync(0, 'utf8'));
const verdicts = {};
for (const [name, token] of Object.entries(tokens)) {
  verdicts[name] = await verifyToken(token, options).then(() => true, () => false);
}
console.log(JSON.stringify(verdicts));
