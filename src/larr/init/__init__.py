"""`larr init`: from files of any layout to a commented configuration.

`draft.init` is the entry. Below it, from the files to the text:

- `sources` finds the tables of a folder, `reader` reads them, `cells` removes brackets and units;
- `kinds` detects what each column holds, `words` what its name says;
- `unnested` and `reshape` generate queries that bring the tables into the shape of a log;
- `guess` chooses the log, its users and places, and `roles` the time, labels and requests;
- `left_out` and `no_log` explain what is not read;
- `draft` writes the SQL of each table, `templates/mine.toml.j2` the rest.
"""
