"""Supabase Realtime's protocol, served by ourselves: `supabase-js` watches jobs and reports without a Supabase.

A client joins channels over one WebSocket, each with the changes that it wants to hear of. `endpoint` admits clients, within `limits`;
`connection` speaks the protocol with one; `joins` checks what a join asks for, by `filters`, and `credentials` who the subscriber is;
`feed` finds the changes, and they wait in the `outbox`.
"""
