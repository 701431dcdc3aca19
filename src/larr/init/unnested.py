"""Generates queries that divide cells with several values into columns and rows.

A struct becomes columns. A list becomes rows if it holds what a user saw or did: structs with an
item in each; items, of which another column names the chosen ones or another list has labels; or
the items of an order. Other lists of structs become lists of names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from larr.data.sql import identifier, literal
from larr.init.kinds import MAX_NUMERIC_CATEGORY, TRUTH, Column, share
from larr.init.reader import Reader, Table
from larr.init.relations import is_attribute
from larr.init.roles import KINDS_OF_IDS
from larr.init.words import WORDS, has_role, is_name, is_role, words_of

SLATE = r"^\S+-[01]( \S+-[01])*$"
"""Shown items, each with its label: `N17-0 N4-1`."""
LABELS = {None, *TRUTH, *TRUTH.values()}
CODES = r"^\S*\d\S*( \S*\d\S*)*$"
"""Codes with spaces between, unlike the words of a text."""
SAMPLE, MIN_LISTS = 1_000, 0.5
"""Rows in which lists are compared, and the share of them that must have a separator."""
MIN_CONTAINED, MIN_PARALLEL = 0.9, 0.99
"""Minimum share of rows whose list contains the chosen items, and of rows in which two lists have
the same length."""
REQUEST = "shown_request"
"""The column that numbers the lists if the table has no other key."""


def unnested(reader: Reader, table: Table) -> Table:
    """Returns a table in which a cell holds one value, or a list of words."""
    rows = [c.name for c in table.columns if _holds_rows(table, _of_list(c))]
    table = _flat(reader, table, rows)
    sql = _structs(table, rows[0]) if rows else _slates(table) or _shown(table)
    if not sql:
        return table
    return reader.query(f"{table.name}_rows", sql, "a row for each value of a list", table)


def _flat(reader: Reader, table: Table, rows: list[str]) -> Table:
    """Returns a table whose structs are columns and whose lists of structs are lists of names.

    The lists in the columns `rows` remain, and so do lists without texts.
    """
    taken = {column.name.lower() for column in table.columns}
    divided, lines = [], []
    for column in table.columns:
        found = []
        if isinstance(column.dtype, pl.Struct):
            found = [*_fields(column.dtype, column.sql, f"{column.name}_")]
        elif column.name not in rows:
            texts = [field.name for field in _of_list(column) if field.dtype == pl.String]
            for name in [*filter(is_name, texts), *texts][:1]:
                found = [(f"[one.{identifier(name)} FOR one IN {column.sql}]", column.name)]
                taken.discard(column.name.lower())
        for sql, name in found:
            free = f"{name}_2" if name.lower() in taken else name
            taken.add(free.lower())
            lines.append(f"{sql} AS {identifier(free)}")
        divided += [column.sql] if found else []
    if not lines:
        return table
    sql = ",\n    ".join([f"SELECT * EXCLUDE ({', '.join(divided)})", *lines])
    note = "fields of nested values are columns"
    return reader.query(f"{table.name}_flat", f"{sql}\nFROM {table.name}", note, table)


def _of_list(column: Column) -> Sequence[pl.Field]:
    """Returns the fields of a list of structs; maps and other columns have none."""
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
    is_map = isinstance(inner, pl.Struct) and inner.fields[0].name == "key"
    return inner.fields if isinstance(inner, pl.Struct) and not is_map else []


def _holds_rows(table: Table, fields: Sequence[pl.Field]) -> bool:
    """Returns whether structs in a list are rows of a log, since they alone name a place."""
    inside = [name for _, name in _fields(pl.Struct(fields), "one")]
    names = [c.name for c in table.columns if not has_role(c.name, "user")]
    is_row = any(is_role(name, "place", "time", "click") for name in inside)
    return is_row and not any(is_role(name, "place") or is_name(name) for name in names)


def _fields(values: pl.Struct, path: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the SQL and the names of a struct's fields; those of nested ones have a prefix."""
    for field in values.fields:
        name, inside = field.name, f"{path}.{identifier(field.name)}"
        name = name if name.startswith(prefix) else f"{prefix}{name}"
        if isinstance(field.dtype, pl.Struct):
            yield from _fields(field.dtype, inside, f"{name}_")
        else:
            yield inside, name


def _structs(table: Table, name: str) -> str:
    """Returns SQL with a row for each struct in the lists of a column."""
    column = table[name]
    inside = _fields(pl.Struct(_of_list(column)), "one")
    lines = [f"{sql} AS {identifier(field)}" for sql, field in inside]
    return (
        f"SELECT * EXCLUDE ({column.sql}, one), {', '.join(lines)}\n"
        f"FROM (SELECT *, unnest({column.sql}) AS one FROM {table.name})"
    )


def _slates(table: Table) -> str:
    """Returns SQL with a row for each part of texts such as `N17-0 N4-1`, else empty."""
    for column in table.columns:
        if column.all_match(SLATE) and column.distinct.str.contains(" ").any():
            return (
                f"SELECT * EXCLUDE ({column.sql}, shown), "
                "regexp_extract(shown, '(.*)-', 1) AS item, right(shown, 1) AS click\n"
                f"FROM (SELECT *, unnest(string_split({column.sql}, ' ')) AS shown\n"
                f"    FROM {table.name})"
            )
    return ""


def _shown(table: Table) -> str:
    """Returns SQL with a row for each item of a list, and its click if known, else empty."""
    users, requests, places = (
        [column for column in table.columns if is_role(column.name, role)]
        for role in ("user", "request", "place")
    )
    has_times = any(column.kind in ("time", "date") for column in table.columns)
    # A table with one row per user and without times describes users.
    is_log = requests or (users and (has_times or not all(column.is_key for column in users)))
    if table.is_named and not is_log:
        return ""
    has_orders = not all(column.is_key for column in users + requests) and not places
    lists = {column: found for column in table.columns if (found := _list(column))}
    for shown, (parts, _) in lists.items():
        if has_role(shown.name, "past") or parts.explode().n_unique() <= MAX_NUMERIC_CATEGORY:
            continue
        beside = [c for c in lists if c is not shown and _are_parallel(lists[c][0], parts)]
        labels = [c for c in beside if {*lists[c][0].explode().str.to_lowercase()} <= LABELS]
        others = [c for c in table.columns if c is not shown and c not in beside]
        chosen = next((c for c in others if _are_chosen(c, lists.get(c, (None,))[0], parts)), None)
        is_list = chosen or labels or (has_orders and _names_items(shown.name))
        keys = [key for key in users + places if key is not chosen]
        # Such as the genres of a film, and its main one.
        if is_list and not any(is_attribute(shown, key) for key in keys):
            read = {column: lists[column][1] for column in (shown, *beside)}
            return _rows(table, read, chosen, lists[chosen][1] if chosen in lists else "")
    return ""


def _names_items(name: str) -> bool:
    """Returns whether a name is such as `dishes` or `ordered_products`, unlike `dish_tags`."""
    other = WORDS["code"] | WORDS["order"] | {"list"}
    heads = [word for word in words_of(name) if word not in other]
    return has_role(heads[-1] if heads else name, "place")


def _list(column: Column) -> tuple[pl.Series, str] | None:
    """Returns the lists in some rows of a column, and SQL for them; None for other columns."""
    some = column.values.head(SAMPLE)
    if isinstance(column.dtype, pl.List):
        return None if column.kind == "nested" else (some.str.split(", "), column.sql)
    if column.dtype != pl.String or column.kind == "time":
        return None
    given = some.drop_nulls()
    for separator in ("|", ", ", ",", ";", " "):
        is_frequent = share(given.str.contains(separator, literal=True)) >= MIN_LISTS
        if is_frequent and (separator != " " or given.str.contains(CODES).all()):
            sql = f"string_split({column.clean or column.sql}, {literal(separator)})"
            return some.str.split(separator), sql
    return None


def _are_parallel(one: pl.Series, other: pl.Series) -> bool:
    """Returns whether two lists have the same length in nearly all rows, and not always one."""
    lengths = one.list.len().fill_null(0), other.list.len().fill_null(0)
    return share(lengths[0] == lengths[1]) >= MIN_PARALLEL and (lengths[0] > 1).any()


def _are_chosen(column: Column, lists: pl.Series | None, shown: pl.Series) -> bool:
    """Returns whether a column holds items of the lists, fewer than these."""
    if column.kind in ("time", "date", "flag", "constant", "missing", "nested"):
        return False
    values = column.values.head(SAMPLE)
    if lists is None:
        lists = pl.select(pl.concat_list(values)).to_series()
    rows = pl.DataFrame({"chosen": lists, "shown": shown, "value": values}).drop_nulls()
    if rows.height < MAX_NUMERIC_CATEGORY or rows["chosen"].explode().n_unique() <= 2:
        return False
    unknown = rows["chosen"].list.set_difference(rows["shown"]).list.len()
    is_part = rows["chosen"].list.len().sum() < rows["shown"].list.len().sum()
    return is_part and share(unknown == 0) >= MIN_CONTAINED


def _rows(table: Table, lists: dict[Column, str], chosen: Column | None, among: str) -> str:
    """Returns SQL with a row for each item of the first list, and the values of the others.

    `lists` are columns and SQL for their lists; `among` is that of `chosen`, empty for one value.
    """
    shown, *beside = lists
    taken = any(c.name.lower() == "item" for c in table.columns if c is not shown)
    item = "shown_item" if taken else "item"
    names = [item, *(column.sql for column in beside)]
    rows = [f"unnest({one}) AS {name}" for one, name in zip(lists.values(), names, strict=True)]
    keys = [c for c in table.columns if c.is_key and c.kind in KINDS_OF_IDS]
    has_key = any(column.is_integer or "id" in column.words for column in keys)
    number = f"(SELECT *, row_number() OVER () AS {REQUEST} FROM {table.name})"
    sql = (
        f"SELECT * EXCLUDE ({', '.join(column.sql for column in lists)}), {', '.join(rows)}\n"
        f"FROM {table.name if has_key else number}"
    )
    if chosen is None:
        return sql
    among = among or f"[{chosen.sql}]"
    click = f"coalesce(list_contains(({among})::VARCHAR[], {item}::VARCHAR), false) AS click"
    return f"SELECT * EXCLUDE ({chosen.sql}), {click}\nFROM ({sql})"
