-- squawk-ignore-file ban-drop-function
-- It is part of app.adapt_functions() now.

drop function if exists app.plan_each_call();
