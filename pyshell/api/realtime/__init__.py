"""Supabase Realtime's protocol, served by ourselves: `supabase-js` watches jobs and reports without a Supabase.

A client joins channels over one WebSocket, each with the changes that it wants to hear of. `endpoint` speaks the protocol,
`feed` finds the changes, `filters` says which of them a channel wants, `credentials` who the subscriber is.
"""
