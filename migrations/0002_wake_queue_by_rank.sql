-- app.wake_queue hears from which rank on something is ready, so that a claim need not begin at the start again. Its only callers are
-- functions, which are replaced in the same transaction.

-- squawk-ignore ban-drop-function
drop function if exists app.wake_queue(uuid, timestamptz);
