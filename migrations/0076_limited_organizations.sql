-- squawk-ignore-file require-concurrent-index-creation
-- The state of the queue is told without looking at each organization for its monthly limit, or for its link to Clerk.

create index organizations_limited_idx on app.organizations (id) where monthly_lookups is not null;
create index organizations_of_clerk_idx on app.organizations (id) where substr(id::text, 15, 1) = '8';
