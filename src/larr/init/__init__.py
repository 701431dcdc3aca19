"""`larr init`: from files of any layout to a commented configuration.

`draft.init` is the entry. From the files to the text:

- `reader` finds and reads the tables of a folder;
- `kinds` detects what each column holds, `words` what its name says, `relations` how they relate;
- `cells`, `unnested` and `reshape` generate queries that bring the tables into the shape of a log;
- `guess` chooses the log, its users and places, and `roles` the time, labels and requests;
- `left_out` explains what is not read;
- `queries` writes the SQL of each table, `draft` the configuration (`templates/mine.toml.j2`).
"""
