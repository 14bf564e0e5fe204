"""An implementation of Supabase Realtime's protocol: `supabase-js` watches jobs and reports without Supabase.

A client joins channels over one WebSocket, each with subscriptions to changes. `endpoint` admits clients, within `limits`;
`connection` speaks the protocol with a client; `joins` checks what a join asks for, with `filters`; `credentials` tells who it is;
`feed` finds the changes, which wait in the `outbox`.
"""
