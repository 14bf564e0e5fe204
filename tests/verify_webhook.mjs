// Reads {secret, body, headers}, answers whether standardwebhooks, installed in the working directory, takes it.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const { Webhook } = createRequire(join(process.cwd(), 'x.js'))('standardwebhooks');
const { secret, body, headers } = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(new Webhook(secret).verify(body, headers)));
