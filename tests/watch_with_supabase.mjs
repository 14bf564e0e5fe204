// Subscribes with the real supabase-js, as argv[2] (JSON) says: {url, key, token, clients, watches}. Tells in a line of JSON what it hears:
// {client, status, error?} and {client, change}. A line of JSON on stdin is for all clients: {token}, a new access token, or {broadcast}.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(`${process.cwd()}/`)
const { createClient } = require('@supabase/supabase-js')
const { url, key, token, clients, watches } = JSON.parse(process.argv[2])
let current = token
const tell = (line) => console.log(JSON.stringify(line))

const all = Array.from({ length: clients }, (_, client) => {
  const options = { realtime: { transport: require('ws'), reconnectAfterMs: () => 100 } }
  const supabase = createClient(url, key, token ? { ...options, accessToken: async () => current } : options)
  const channel = supabase.channel('batch-jobs')
  for (const watch of watches) {
    channel.on('postgres_changes', watch, (change) => tell({ client, change }))
  }
  channel.on('system', {}, (message) => tell({ client, system: message }))
  channel.subscribe((status, error) => tell({ client, status, error: error?.message }))
  return { supabase, channel }
})

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { token, broadcast } = JSON.parse(line)
    current = token ?? current
    all.forEach(({ supabase, channel }) =>
      token ? supabase.realtime.setAuth() : channel.send({ type: 'broadcast', event: 'message', payload: { broadcast } }))
  })
  .on('close', () => process.exit())
