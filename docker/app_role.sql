-- As whom the API and the worker log in. Chapter 05 of the functions says what it may do.
\set app_password `echo "$APP_PASSWORD"`
create role batch_lookups_app login noinherit password :'app_password';
