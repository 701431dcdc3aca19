"""Files of all dialects are read correctly, or refused with an explanation."""

import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from larr.config.data import FileConfig
from larr.data.csv_files import BLOCK
from larr.data.files import Files
from larr.errors import DataError


def read(path: Path, **settings: object) -> pl.DataFrame:
    """The rows of a file."""
    return files_with(path, **settings).table("it").collect()


def files_with(path: Path, **settings: object) -> Files:
    files = Files(path.parent / "copies")
    files.add("it", FileConfig.model_validate({"path": path, **settings}))
    return files


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes a CSV file."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "a.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        'id,name\n01,"a, b"\n1e3,ü\n',
        "id;name\r\n01;a, b\r\n1e3;ü\r\n",
        "id\tname\n01\ta, b\n1e3\tü\n",
        "id|name\n01|a, b\n1e3|ü",
        "id::name:: \n01::a, b::\n1e3::ü::\n",
        "id;name\r\n01;a, b\n1e3;ü\r\n",
        "\ufeffid,'name'\n01,'a, b'\n1e3,'ü'\n",
        'id,name\n01,"a, b"\n1e3,ü\n'.encode("utf-16"),
    ],
)
def test_dialects_are_detected_and_cells_kept_verbatim(
    written: Callable[[str | bytes], Path], content: str | bytes
) -> None:
    frame = read(written(content))
    assert frame.columns[:2] == ["id", "name"]
    assert frame.select("id", "name").rows() == [("01", "a, b"), ("1e3", "ü")]


def test_a_legacy_encoding_is_detected(written: Callable[[str | bytes], Path]) -> None:
    dish = "Käsespätzle mit Röstzwiebeln und grünem Salat, dazu Brötchen"
    assert read(written(f'id,name\n1,"{dish}"\n'.encode("latin-1")))["name"].item() == dish
    many = "a" * BLOCK  # the first block has no such letter
    assert read(written(f'id,name\n1,{many}\n2,"{dish}"\n'.encode("latin-1")))["name"][1] == dish
    dish = "麻婆豆腐盖饭，配紫菜蛋花汤和凉拌黄瓜，微辣，米饭免费续，营业时间早上九点到晚上十点"
    assert read(written(f'id,name\n1,"{dish}"\n'.encode("gb18030")))["name"].item() == dish


def test_the_dialect_can_be_set(written: Callable[[str | bytes], Path]) -> None:
    path = written("a note\n1::x\n2::y\n")
    frame = read(path, skip=1, separator="::", columns=["id", "name"])
    assert frame.rows() == [("1", "x"), ("2", "y")]


def test_decimal_commas_become_points(written: Callable[[str | bytes], Path]) -> None:
    path = written("id;price;tags\n1;3,50;1,2,3\n2;;4\n3;-,5;7,8\n")
    assert read(path)["price"].to_list() == ["3.50", None, "-.5"]
    assert read(path)["tags"].to_list() == ["1,2,3", "4", "7,8"]
    assert read(path, decimal=".")["price"].to_list() == ["3,50", None, "-,5"]


def test_integers_written_as_floats_become_integers(
    written: Callable[[str | bytes], Path],
) -> None:
    frame = read(written("id,code,half\n1.0,1.0,1.0\n,1.10,2.5\n3.0,2,3.0\n"))
    assert frame.rows() == [("1", "1.0", "1.0"), (None, "1.10", "2.5"), ("3", "2", "3.0")]


@pytest.mark.parametrize("mark", ['""', '\\"'])
def test_escapes_of_late_quotes_are_detected(
    written: Callable[[str | bytes], Path], mark: str
) -> None:
    """The first quote comes after the rows used for detection; Spark escapes with a backslash."""
    rows = [f"{number},plain,1" for number in range(25_000)]
    rows += [f'{number},"say {mark}hi{mark}, you {mark}",1' for number in range(3)]
    frame = read(written("id,name,x\n" + "\n".join(rows) + "\n"))
    assert frame.height == 25_003
    assert frame["name"][-1] == 'say "hi", you "'


def test_malformed_lines_are_kept_apart(written: Callable[[str | bytes], Path]) -> None:
    path = written("id,name\n" + "1,x\n" * 500 + "2\n3,y,z\n")
    files = files_with(path)
    assert files.table("it").collect().height == 500
    assert files.csv.unreadable.select("line", "reason", "text").rows() == [
        (502, "missing columns", "2"),
        (503, "too many columns", "3,y,z"),
    ]


def test_each_line_after_an_unclosed_quote_counts(
    written: Callable[[str | bytes], Path],
) -> None:
    rows = '1,"x, y"\n' * 300
    with pytest.raises(DataError, match=r"9 of 609 lines cannot be parsed"):
        read(written("id,name\n" + rows + '2,"a\n' + "3,b\n" * 7 + '4,c"d\n' + rows))


def test_texts_of_several_lines_are_cells(written: Callable[[str | bytes], Path]) -> None:
    """A line of prose may contain as many commas as a row of two columns, but no code before it."""
    lines = [f'{n},"A hut.\nWarm, dry, and on a hill, of course."\n' for n in range(9)]
    assert read(written("id,text\n" + "".join(lines))).height == 9


def test_prose_with_commas_is_told_from_rows_within_a_cell(
    written: Callable[[str | bytes], Path],
) -> None:
    """Prose has spaces after its commas, or lines without them; swallowed rows do not."""
    texts = ["A hut.\nWarm, dry, on a hill.\nGo", "A hut.\nWarm,dry,on a hill\nand far away\n"]
    lines = [f'{n},"{text}",5\n' for n, text in enumerate(texts)]
    frame = read(written("id,text,stars\n" + "".join(lines)))
    assert frame["text"].to_list() == texts
    swallowed = '1,"open,5\n2,b,6\n3,c",7\n'
    with pytest.raises(DataError, match="a quoted cell seems to contain rows: 'open,5"):
        read(written("id,text,stars\n" + "".join(lines) + swallowed))


@pytest.mark.parametrize("compressed", [False, True])
def test_long_malformed_lines_are_kept_complete(tmp_path: Path, *, compressed: bool) -> None:
    """An unclosed quote spans all lines up to the next quote or the end."""
    rows = ['1,"x, y"'] * 100_000
    rows[1_000] = '7,"open'
    rows[1_001:1_400] = ["8," + "within" * 5] * 399
    rows[3_000] = f"{'long ' * 4_000},b,c"
    rows[3_001] = "a,b,c"
    rows.append('9,"' + "within it, within it, within it\n" * 400 + "the end")
    content = "\n".join(["id,name", *rows]).encode()
    path = tmp_path / ("it.csv.gz" if compressed else "it.csv")
    path.write_bytes(gzip.compress(content) if compressed else content)
    files = files_with(path)
    assert files.table("it").collect().height == 100_000 - 403
    assert files.csv.unreadable["text"].to_list() == [
        "\n".join(rows[1_000:1_401]),
        *rows[3_000:3_002],
        rows[-1],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,x\n1,2,3\n", "1 of 1 lines cannot be parsed into 2 columns"),
        ('id,x,y\n1,"a,b\n2,a,b\n3,a",b\n4,"a,b",c\n', "parsed into 3 columns"),
        ("click,click\n1,0\n", "duplicate columns click"),
        ("", "is empty"),
    ],
)
def test_an_unreadable_file_is_refused(
    written: Callable[[str | bytes], Path], content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(written(content))


def test_a_folder_is_one_table_without_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "1.CSV").write_text("id,x\n1,2\n")
    (folder / "2.csv").write_text("x,id\n3,2\n")
    with gzip.open(folder / "3.csv.gz", "wt") as file:
        file.write("id,x\n3,4\n")
    with pa.output_stream(folder / "4.csv.zst", compression="zstd") as stream:
        stream.write(b"id,x\n4,5\n")
    (folder / "_SUCCESS").touch()
    (folder / "5.csv").touch()
    assert read(folder).sort("id").select("id", "x").rows() == [
        ("1", "2"), ("2", "3"), ("3", "4"), ("4", "5")
    ]  # fmt: skip
    (folder / "2.doc").write_text("x")
    with pytest.raises(DataError, match=r"got 2\.doc"):
        read(folder)


def test_partitions_are_columns(tmp_path: Path) -> None:
    for day in ("1", "02"):
        (tmp_path / "log" / f"day={day}").mkdir(parents=True)
        (tmp_path / "log" / f"day={day}" / "0.csv").write_text(f"id\na{day}\n")
    assert sorted(read(tmp_path / "log").rows()) == [("a02", "02"), ("a1", "1")]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_copies_keep_file_names_and_partitions(tmp_path: Path, encoding: str) -> None:
    for day, row in (("1", "é"), ("2", "ü")):
        (tmp_path / f"day={day}").mkdir()
        content = gzip.compress(f"id\n{row}\n".encode(encoding))
        (tmp_path / f"day={day}" / "a.b.csv.gz").write_bytes(content)
    frame = read(tmp_path, encoding=encoding, file_column="file")
    assert sorted(frame.select("id", "day", "file").rows()) == [
        ("é", "1", "a.b"),
        ("ü", "2", "a.b"),
    ]
    files = Files(tmp_path.parent / f"{tmp_path.name}-copies")
    for day in ("1", "2"):
        path = tmp_path / f"day={day}" / "a.b.csv.gz"
        files.add(f"of_{day}", FileConfig(path=path, encoding=encoding))
    assert [files.table(f"of_{day}").collect()["id"].item() for day in "12"] == ["é", "ü"]


def test_rows_of_parquet_files_have_file_names(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "log" / "2024-04-08.parquet")
    assert read(tmp_path / "log", file_column="file").rows() == [(1, "2024-04-08")]


def test_parquet_parts_with_different_types_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    (folder / "city=Bonn").mkdir(parents=True)
    pl.DataFrame({"id": [1], "x": [None]}).write_parquet(folder / "city=Bonn" / "0.parquet")
    (folder / "city=Ulm").mkdir()
    pl.DataFrame({"id": ["b"], "x": [2.5]}).write_parquet(folder / "city=Ulm" / "1.parquet")
    assert read(folder).rows() == [("1", None, "Bonn"), ("b", 2.5, "Ulm")]


def test_databases_are_read_by_their_uri(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as shop:
        shop.execute("CREATE TABLE shops (id INTEGER, name TEXT)")
        shop.execute("INSERT INTO shops VALUES (1, 'Tea'), (2, NULL)")
    with duckdb.connect(tmp_path / "shop.duckdb") as other:
        other.execute("CREATE TABLE shops AS SELECT 3 AS id, 'Soup' AS name")
    files = Files(tmp_path / "copies")
    for kind, file in (("sqlite", "shop.db"), ("duckdb", "shop.duckdb")):
        uri = f"{kind}:///{tmp_path}/{file}"
        files.add(kind, FileConfig(uri=uri, query="SELECT * FROM shops ORDER BY id"))
    assert files.table("sqlite").collect().rows() == [(1, "Tea"), (2, None)]
    assert files.table("duckdb").collect().rows() == [(3, "Soup")]
    with pytest.raises(DataError, match=r"dataset\.files\.it .*cannot be read"):
        files.add("it", FileConfig(uri=f"sqlite:///{tmp_path}/shop.db", query="SELECT x FROM y"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "users.csv")
