"""Makes the golden files in this folder with datasets 5.2.0, pandas and pyarrow 26.

    python golden.py        (offline; writes splits.json, layouts.json, csv.json, types.*)
"""
import datetime as dt, decimal, json, os, tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import datasets.load
from datasets.arrow_reader import ReadInstruction

here = os.path.dirname(os.path.abspath(__file__))


def dump(name, value):
    with open(os.path.join(here, name), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n]\n")


def splits():
    """[expression, rows of train, [[split, from, to], …] or null for an error]; test has 13 rows."""
    specs = """train|train[:100]|train[:10]|train[5:]|train[-7:]|train[:-7]|train[10%:]|train[:33%]|train[25%:75%]|train[-10%:]|train[:1%]|train[99%:]|train[3:2]|train[:]
    |train[1_0:2_0]|train[:50%](pct1_dropremainder)|train[10:20%]|train[:10]+train[-10:]|train + test[:50%]|test[:5]+train[2:4]|train[:1000]|train[:-1000]|train[-1000:]
    |train[37%:38%]|train[0%:50%](closest)||train[|train[a:b]|train[:101%]|train[:10](closest)|train[:10%](floor)|train[10]|tr ain|train[:5]extra""".split("|")
    for n in (7, 100, 101, 250, 999):
        for s in [s.strip() for s in specs]:
            try:
                cuts = [[a.splitname, a.from_, max(a.from_, a.to)] for a in ReadInstruction.from_spec(s).to_absolute({"train": n, "test": 13})]
            except ValueError:
                cuts = None
            yield [s, n, cuts]


def layouts():
    """[files of a folder, module, [[split, files], …]]."""
    for files in [
        ["data.jsonl"], ["train.jsonl", "test.jsonl"], ["train.csv", "dev.csv", "eval.csv"],
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        ["data/train-00000-of-00001-abc123.parquet", "data/extra_split-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"],
        ["train/a.jsonl", "train/b.jsonl", "validation/a.jsonl", "test.txt"], ["my_train_file.jsonl", "my-test-file.jsonl"],
        ["training.json", "testing.json", "valid.json"], ["a.parquet", "b.parquet"], ["sub/train/x.csv", "sub/val/y.csv"],
        ["data/train.csv", "data/sub/dev 1.csv", ".hidden/train.csv", "__pycache__/train.csv"], ["trainset.jsonl", "contest.jsonl"],
        ["train.jsonl", "README.md", "config.json", "dataset_info.json"], ["a.csv", "b.jsonl", "c.jsonl"], ["a.csv", "b.parquet"],
        ["x.train.jsonl", "x.test.jsonl"], ["train-00000-of-00003.parquet", "train-00001-of-00003.parquet", "train-00002-of-00003.parquet"],
        ["en/train.jsonl", "de/train.jsonl", "en/test.jsonl"], ["train1.jsonl", "train2.jsonl", "dev.jsonl"], ["1train.csv", "2 eval.csv"],
        ["data.jsonl.gz"], ["train.tsv", "test.tsv"], ["eval/training.jsonl", "other.jsonl"],
    ]:
        d = tempfile.mkdtemp()
        for f in files:
            os.makedirs(os.path.dirname(os.path.join(d, f)), exist_ok=True)
            open(os.path.join(d, f), "w").write("x")
        m = datasets.load.LocalDatasetModuleFactory(d).get_module()
        found = m.builder_configs_parameters.builder_configs[0].data_files
        yield [files, m.module_path.split(".")[-1], [[str(k), [os.path.relpath(str(x), d) for x in v]] for k, v in found.items()]]


def csv():
    """[text, rows or null for an error], by pandas.read_csv, which the csv loader calls."""
    for text in [
        "text,n\na,1\nb,2\n", "text,n\na,1\n,2\nc,\n", "text,n\r\na,1\r\nb,2\r\n", "text\n\n\"\"\na\n", 'text\n"a\r\nb"\n"c ""d"" e"\n', "a,a,a\n1,2,3\n", "a,,b\n1,2,3\n",
        "a,b\n1\n2,3\n", "a,b\n1,2,3\n1,2,3,4\n", "f\n1\n2.5\n1e3\n", "b\nTrue\nfalse\n", "b\nTrue\n\n", "b\nTrue\nmaybe\n", "b\nTrue\n1\n", "x\nNA\nNone\nnull\nn/a\nNaN\nx\n", 'x\n"NA"\nnan\n',
        "x\n 1\n2 \n", "x\n0x10\n2\n", "x\ninf\n1\n", "x\n-5\n+7\n", 'x,y\na"b,c\n"d"e,f\n', "\ufeffx\n1\n", "x\n1", "x,y\n,\n", "x\n9007199254740993\n",
        "x\n1_000\n", "a b, c\n1,2\n", "x\n1\nNA\n", 'x\n"unclosed\n',
    ]:
        with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", encoding="utf-8", delete=False) as f:
            f.write(text)
        try:
            t = pa.Table.from_pandas(pd.read_csv(f.name))
            rows = [{k: v for k, v in r.items() if not k.startswith("__index")} for r in t.to_pylist()]
            rows = json.loads(json.dumps(rows).replace("Infinity", '"inf"'))
        except Exception:
            rows = None
        yield [text, rows]


def types():
    """A table with one column of every type, and what the Go reader makes of it."""
    t0, d0 = dt.datetime(2024, 2, 29, 12, 34, 56, 789000), dt.date(1969, 12, 31)
    cols = {
        "text": (pa.string(), ["a", None, "ü\n", ""]), "large": (pa.large_string(), ["x", "", None, "yy"]), "bytes": (pa.binary(), [b"ok", b"\xff\xfe", None, b""]),
        "i8": (pa.int8(), [-128, 127, None, 0]), "u8": (pa.uint8(), [255, 0, None, 1]), "i16": (pa.int16(), [-32768, 1, None, 2]), "u16": (pa.uint16(), [65535, 1, None, 2]),
        "i32": (pa.int32(), [-(2**31), 1, None, 2]), "u32": (pa.uint32(), [2**32 - 1, 1, None, 2]), "i64": (pa.int64(), [-(2**63), 2**63 - 1, None, 2]), "u64": (pa.uint64(), [2**63 - 1, 1, None, 2]),
        "f16": (pa.float16(), [0.5, -2.0, None, 65504.0]), "f32": (pa.float32(), [0.1, -1.5, None, 3.0]), "f64": (pa.float64(), [0.1, 1e300, None, -0.0]), "bool": (pa.bool_(), [True, False, None, True]),
        "date": (pa.date32(), [d0, None, dt.date(2024, 2, 29), dt.date(1, 1, 1)]), "ts_ms": (pa.timestamp("ms"), [t0, None, dt.datetime(1969, 12, 31, 23, 59, 59, 500000), t0]),
        "ts_us": (pa.timestamp("us"), [t0, None, t0, t0]), "dec": (pa.decimal128(9, 3), [decimal.Decimal("-1.005"), None, decimal.Decimal("123456.789"), decimal.Decimal("0.001")]),
        "list": (pa.list_(pa.string()), [["a", None], [], None, ["b"]]), "lists": (pa.list_(pa.list_(pa.int64())), [[[1], []], [None, [2, 3]], None, []]),
        "struct": (pa.struct([("x", pa.int64()), ("y", pa.string())]), [{"x": 1, "y": "a"}, {"x": None, "y": None}, None, {"x": 2, "y": "b"}]),
        "chat": (pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), [[{"role": "user", "content": "q"}], [], None, [{"role": "a", "content": None}, {"role": "b", "content": "c"}]]),
    }
    only_arrow = {
        "dict": (pa.dictionary(pa.int8(), pa.string()), ["a", "b", None, "a"]), "fixed": (pa.list_(pa.int64(), 2), [[1, 2], [3, None], None, [4, 5]]), "null": (pa.null(), [None] * 4),
        "biglist": (pa.large_list(pa.string()), [["a"], [], None, ["b", "c"]]), "fsb": (pa.binary(2), [b"ab", b"cd", None, b"ef"]),
    }

    def table(c):
        return pa.table({k: pa.array(v, type=t) for k, (t, v) in c.items()})

    def plain(t, v):
        if v is None:
            return None
        if isinstance(v, bytes):
            try:
                return v.decode()
            except UnicodeDecodeError:
                import base64
                return base64.b64encode(v).decode()
        if isinstance(v, dt.datetime):
            return v.isoformat().rstrip("0") if v.microsecond else v.isoformat()
        if isinstance(v, dt.date):
            return v.isoformat()
        return str(v) if isinstance(v, decimal.Decimal) else v

    parquet, arrow = table(cols), table({**cols, **only_arrow})
    pq.write_table(parquet, os.path.join(here, "types.parquet"), compression="zstd", row_group_size=3)
    delta = {k: "DELTA_BINARY_PACKED" for k in ("i32", "i64", "u64")} | {"text": "DELTA_BYTE_ARRAY", "large": "DELTA_LENGTH_BYTE_ARRAY", "f64": "BYTE_STREAM_SPLIT", "bool": "RLE"}
    for codec in ("none", "snappy", "lz4", "gzip", "brotli"):
        pq.write_table(parquet, os.path.join(here, f"types_delta_{codec}.parquet"), compression=codec, use_dictionary=False, column_encoding=delta, data_page_version="2.0")
    for codec in (None, "lz4", "zstd"):
        with pa.ipc.new_file(os.path.join(here, f"types{'_' + codec if codec else ''}.arrow"), arrow.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as w:
            w.write_table(arrow, max_chunksize=3)
    return [{k: plain(arrow.schema.field(k).type, v) for k, v in r.items()} for r in arrow.to_pylist()]


def pages():
    """Rows enough for several pages and runs; golden_test.go knows the rule of the values."""
    n = 8000
    t = pa.table({"text": [str(i * 2654435761 % 2**32) for i in range(n)], "b": [i * i % 7 < 3 for i in range(n)], "n": [None if i % 3 == 0 else i % 50 for i in range(n)]})
    pq.write_table(t, os.path.join(here, "pages_lz4.parquet"), compression="lz4", use_dictionary=["n"], data_page_size=4096)
    pq.write_table(t, os.path.join(here, "pages_v2.parquet"), compression="zstd", use_dictionary=["n"], data_page_size=4096, data_page_version="2.0", write_page_checksum=True)


pages()
for f in (splits, layouts, csv, types):
    dump(f.__name__ + ".json", list(f()))
