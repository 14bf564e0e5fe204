-- squawk-ignore-file ban-drop-view
-- Numbers are numbers: api.items.total_incentive_amount was jsonb, api.report_sites.utility_eiaid text. The functions bring the views back.

drop view if exists api.items;
drop view if exists api.report_sites;
