-- What names a program of an answer is `app.result_programs`.

-- squawk-ignore-file ban-drop-function
drop function if exists app.program_label(text, text);
