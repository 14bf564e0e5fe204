-- Organizations that users of Clerk made keep to names of their own, which no operator gives: their id is made of their Clerk id.
update app.organizations
   set name = left('clerk:' || case when length(name) <= 194 then name else clerk_organization_id end, 200)
 where id = overlay(overlay(left(encode(sha256(convert_to('clerk:' || clerk_organization_id, 'UTF8')), 'hex'), 32)
                            placing '8' from 13) placing 'a' from 17)::uuid
   and name not like 'clerk:%';

-- squawk-ignore ban-drop-function
drop function if exists app.authorize(uuid);
