-- `app.result_programs` names the programs of an answer.

-- squawk-ignore-file ban-drop-function
drop function if exists app.program_label(text, text);
