-- squawk-ignore-file ban-drop-function, renaming-object
-- What a cursor holds, and what a catalogue is warned about, have the names that others have for them.

drop function if exists app.cursor(app.page_mark);
drop function if exists app.read_cursor(text, text);
drop function if exists app.read_page(text, text, integer, integer, integer);
alter type app.page_mark rename to page_cursor;

drop function if exists api.find_catalogue_doubts();
drop function if exists app.tier_doubts(date);
drop function if exists app.program_doubts(date);
