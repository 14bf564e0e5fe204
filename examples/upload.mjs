// Uploads a CSV file of sites as it is, shows the progress, and saves the result of each site. Needs only Node.js 18 or later.
//
//     API_KEY=leap_live_... node examples/upload.mjs examples/sites.csv results.csv
//
// `API_URL` is the URL of the API; default: http://127.0.0.1:8000.

import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'

const API_URL = (process.env.API_URL ?? 'http://127.0.0.1:8000').replace(/\/$/, '')

// A request that is tried again while the service is busy. The same Idempotency-Key makes that safe for an upload, too.
async function call(method, path, options = {}) {
  for (;;) {
    const response = await fetch(API_URL + path, { method, ...options, headers: { 'x-api-key': process.env.API_KEY, ...options.headers } })
    if (response.ok || response.status === 304) return response
    const error = await response.text()
    if (![429, 503].includes(response.status)) throw new Error(`${method} ${path}: ${response.status} ${error}`)
    await sleep(1000 * Number(response.headers.get('retry-after') ?? 1))
  }
}

async function upload(file) {
  const response = await call('POST', '/batch-lookups', {
    headers: { 'content-type': 'text/csv', 'idempotency-key': randomUUID() },
    body: await readFile(file)
  })
  return response.json()
}

// The job once it has ended. Each request waits for the next change.
async function waitFor(jobId) {
  let etag = ''
  for (;;) {
    const response = await call('GET', `/batch-lookups/${jobId}?wait=20`, { headers: { 'if-none-match': etag } })
    if (response.status === 304) continue
    etag = response.headers.get('etag')
    const job = await response.json()
    console.log(`${job.processed_items} of ${job.total_items} done, ${job.failed_items} failed`)
    if (!['pending', 'processing'].includes(job.status)) return job
    await sleep(Math.min(job.poll_after_ms ?? 0, 1000))
  }
}

const [sites, results] = process.argv.slice(2)
if (!sites || !results || !process.env.API_KEY) {
  console.error('usage: API_KEY=leap_live_... node upload.mjs SITES.csv RESULTS.csv')
  process.exit(2)
}
try {
  const { job_id } = await upload(sites)
  const job = await waitFor(job_id)
  const file = await call('GET', `/batch-lookups/${job_id}/results`)
  await pipeline(Readable.fromWeb(file.body), createWriteStream(results))
  const report = await (await call('GET', `/incentive-reports/${job.report_id}?limit=1`)).json()
  const value = report.total_incentive_value.toLocaleString('en-US', { style: 'currency', currency: 'USD' })
  console.log(`${report.name}: ${report.eligible_sites} of ${report.total_sites} eligible, ${value} in all`)
} catch (error) {
  console.error(error.cause ? `${API_URL} cannot be reached: ${error.cause.code ?? error.cause.message}` : error.message)
  process.exit(1)
}
