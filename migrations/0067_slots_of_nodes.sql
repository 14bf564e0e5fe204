-- squawk-ignore-file ban-drop-function
-- The nodes of a cluster share one rate limit, in blocks of slots.

alter table app.rate_limit
    add column ends_at timestamptz not null default '-infinity',
    add column block_slots integer not null default 0;
comment on column app.rate_limit.ends_at is 'On a cluster: the end of the block of slots that this node may give out.';
comment on column app.rate_limit.block_slots is 'How many slots the node asked for with this block.';

create table app.slot_blocks (
    singleton    boolean     not null default true,
    next_slot_at timestamptz not null default '-infinity',

    constraint slot_blocks_pkey primary key (singleton),
    constraint slot_blocks_singleton_check check (singleton)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.slot_blocks is 'At the coordinator of a cluster, the rate limit that all nodes share: they take blocks of time slots from its one row.';
comment on column app.slot_blocks.next_slot_at is 'Next time slot that is in no block.';

insert into app.slot_blocks default values;

drop function if exists app.hold_slots(integer);
