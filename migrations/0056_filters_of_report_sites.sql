-- squawk-ignore-file ban-drop-function
-- The sites that are eligible for a program are found once, not by a query for every site.

drop function if exists app.site_has_program(public.incentive_report_sites, text);
drop function if exists app.site_matches(public.incentive_report_sites, boolean, text, text, text);
