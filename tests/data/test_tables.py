"""Tables: every dtype comes back as it went in, and every fault is named with its column and row."""

import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.data import Schema, load_data
from pushforward.errors import ConfigError, DataError

N = 120


def pandas_table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": random.normal(170, 10, N),
            "children": random.integers(0, 5, N),
            "income": random.integers(0, 10**6, N),
            "owner": random.random(N) > 0.5,
            "city": random.choice(["Bern", "Genf", "Chur"], N),
            "size": pd.Categorical(random.choice(["lo", "hi"], N), categories=["lo", "mid", "hi"], ordered=True),
            "room": pd.Categorical(random.choice([3, 1], N), categories=[3, 2, 1]),
            "share": random.random(N).astype("float32"),
            "floors": pd.array(random.integers(3, 9, N), dtype="Int64"),
            "sold": pd.array(random.random(N) > 0.5, dtype="boolean"),
            "nick": pd.Series(random.choice(["a", "b"], N).tolist(), dtype=object),
            "byte": random.integers(0, 200, N).astype(np.uint8),
            "arrow": pd.array(random.integers(0, 9, N), dtype="int64[pyarrow]"),
            7: random.integers(0, 2, N),
        }
    )


def polars_table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "height": random.normal(170, 10, N),
            "children": pl.Series(random.integers(0, 5, N), dtype=pl.UInt8),
            "income": random.integers(0, 10**6, N),
            "owner": random.random(N) > 0.5,
            "city": random.choice(["Bern", "Genf", "Chur"], N).tolist(),
            "kind": pl.Series(random.choice(["u", "v"], N).tolist(), dtype=pl.Categorical),
            "size": pl.Series(random.choice(["lo", "hi"], N).tolist(), dtype=pl.Enum(["lo", "mid", "hi"])),
            "share": pl.Series(random.random(N), dtype=pl.Float32),
        }
    )


def test_pandas_round_trip():
    frame = pandas_table()
    data = load_data(frame)
    schema = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    assert schema == data.schema
    supports = [str(s) for s in data.spec.supports]
    assert supports == [
        "real", "levels(5)", "real", "binary", "categories(3)", "categories(2)", "categories(2)", "real", "levels(6)", "binary",
        "categories(2)", f"levels({int(frame['byte'].max()) - int(frame['byte'].min()) + 1})", "levels(9)", "binary",
    ]  # fmt: skip
    # float32 keeps 2^-24 of the spread; integers up to 10^6 are then rounded back to themselves.
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame, rtol=1e-6, atol=1e-5)
    held = frame.iloc[data.order[-12:].numpy()].reset_index(drop=True)
    pd.testing.assert_frame_equal(data.test.records(), held, rtol=1e-6, atol=1e-5)


def test_polars_round_trip():
    frame = polars_table()
    data = load_data(frame)
    back = data.schema.decode(data.schema.encode(frame))
    assert isinstance(back, pl.DataFrame)
    assert back.schema == frame.schema
    for name in frame.columns:
        if frame[name].dtype.is_float():
            np.testing.assert_allclose(back[name].to_numpy(), frame[name].to_numpy(), rtol=1e-6, atol=1e-6)
        else:
            assert back[name].to_list() == frame[name].to_list()
    assert Schema.from_json(json.loads(json.dumps(data.schema.to_json()))) == data.schema


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False),
            st.integers(-200, 55),
            st.booleans(),
            st.sampled_from(["", "ä b", "'", "None", "0"]),
        ),
        min_size=12,
        max_size=30,
    )
)
def test_any_mixed_table_comes_back(rows):
    frame = pd.DataFrame(rows, columns=["r", "i", "b", "t"])
    frame = frame[[c for c in frame if frame[c].nunique() > 1]]
    if not frame.shape[1] or ("r" in frame and frame["r"].iloc[: len(frame)].std() < 1e-3):
        return
    try:
        data = load_data(frame)
    except DataError as error:
        assert "hold one value only in the training records" in str(error)
        return
    back = data.schema.decode(data.schema.encode(frame, torch.float64))
    pd.testing.assert_frame_equal(back, frame, rtol=1e-9, atol=1e-6)


def test_polars_records_fit_a_schema_from_pandas():
    frame = pandas_table()[["height", "children", "city", "owner"]]
    schema = load_data(frame).schema
    torch.testing.assert_close(schema.encode(pl.from_pandas(frame)), schema.encode(frame))
    torch.testing.assert_close(schema.encode(frame[["owner", "city", "children", "height"]]), schema.encode(frame))


def test_ten_times_the_table_lowers_log_det_by_d_log_ten():
    frame = pandas_table()[["height", "share", "city"]]
    once, ten = load_data(frame).schema, load_data(frame.assign(height=frame["height"] * 10, share=frame["share"] * 10)).schema
    assert ten.log_det - once.log_det == pytest.approx(-2 * math.log(10), abs=1e-6)


def test_scaling_is_that_of_the_training_rows_alone():
    data = load_data(pandas_table()[["height", "share", "city"]])
    train, rest = data.train.x[:, :2].double(), data.test.x[:, :2].double()
    # float32 storage: the mean of 96 values of order 1 is off by at most 2^-24 each.
    torch.testing.assert_close(train.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert rest.mean(0).abs().min() > 1e-4


def test_label_is_a_column_or_an_array():
    frame = pandas_table()
    data = load_data(frame, label="city")
    assert str(data.schema.condition) == "city: Bern, Chur, Genf"
    assert "city" not in data.test.records()
    assert data.train.labels().tolist() == frame["city"].iloc[data.order[:96].numpy()].tolist()
    # The label's column may stay among records that are to be judged.
    assert data.schema.encode(frame).shape == (N, 13)
    assert load_data(frame, label="height").schema.condition.kind == "vector"
    assert load_data(frame, label="children").schema.condition.classes == (0, 1, 2, 3, 4)
    assert load_data(frame, label="owner").schema.condition.classes == (False, True)
    assert load_data(frame, label=frame["city"].tolist()).schema.condition.dim == 3
    with pytest.raises(DataError, match="label='citty': the table has no such column. Did you mean 'city'"):
        load_data(frame, label="citty")
    with pytest.raises(DataError, match="2 labels for 120 rows"):
        load_data(frame, label=[1, 2])


def test_columns_and_drop():
    frame = pandas_table()
    assert [c.name for c in load_data(frame, columns=["city", "height"]).schema.columns] == ["city", "height"]
    assert len(load_data(frame, drop=["city"]).schema.columns) == 13
    assert len(load_data(frame, drop="city").schema.columns) == 13
    with pytest.raises(DataError, match="drop='hight': the table has no such column. Did you mean 'height'"):
        load_data(frame, drop=["hight"])
    with pytest.raises(DataError, match="No column is left"):
        load_data(frame, columns=["city"], label="city")


def test_support_by_column():
    frame = pandas_table()
    data = load_data(frame, support={"children": "real", "floors": "categories", "share": "unit"})
    supports = {c.name: str(c.support) for c in data.schema.columns}
    assert (supports["children"], supports["floors"], supports["share"]) == ("real", "categories(6)", "unit")
    assert str(load_data(frame, support="children=real,floors=levels(7)").schema.columns[8].support) == "levels(7)"
    back = data.schema.decode(data.schema.encode(frame))
    pd.testing.assert_frame_equal(back, frame, rtol=1e-6, atol=1e-5)
    for support, text in [
        ({"height": "levels"}, "the column holds numbers that are not whole. Use 'real'"),
        ({"children": "levels(3)"}, r"the column spans 5 values. Use 'levels\(5\)'"),
        ({"children": "binary"}, "more than two values"),
        ({"height": "unit"}, "Use 'real', or rescale"),
        ({"city": "real"}, "needs numbers; the column holds text"),
        ({"citi": "real"}, "names the column 'citi', .* Did you mean 'city'"),
        ("real", "For a table say which column: support={'height': 'real'}"),
    ]:
        with pytest.raises((DataError, ConfigError), match=text):
            load_data(frame, support=support)


def test_missing_values_are_named_with_their_remedies():
    frame = pandas_table()
    frame.loc[[3, 5, 9, 11], "height"] = np.nan
    frame.loc[[4], "city"] = None
    with pytest.raises(DataError, match=r"Missing values in 'height': 4 \(rows 3, 5, 9 ...\); 'city': 1 \(rows 4 ...\). missing='drop'"):
        load_data(frame)
    data = load_data(frame, missing="drop")
    assert len(data) == N - 5
    assert "5 of 120 rows dropped" in data.notes[0]
    with pytest.raises(DataError, match="missing='category' is for text columns; numbers or labels are missing in 'height': 4"):
        load_data(frame, missing="category")
    only = frame.drop(columns="height")
    data = load_data(only, missing="category")
    pd.testing.assert_frame_equal(data.schema.decode(data.schema.encode(only)), only, rtol=1e-6, atol=1e-5)
    with pytest.raises(ConfigError, match="missing='dorp' is not known. Did you mean 'drop'"):
        load_data(frame, missing="dorp")
    whole = load_data(pandas_table()).schema
    with pytest.raises(DataError, match=r"Column 'height' misses 4 value\(s\), first in rows \[3, 5, 9, 11\]"):
        whole.encode(frame)
    holes = polars_table().with_columns(height=pl.when(pl.int_range(pl.len()) == 6).then(None).otherwise(pl.col("height")))
    with pytest.raises(DataError, match=r"'height': 1 \(rows 6"):
        load_data(holes)


def test_missing_booleans_and_polars_text_can_be_categories():
    flags = [True, False, None] * 8
    frame = pd.DataFrame({"flag": pd.array(flags, dtype="boolean"), "x": np.arange(24.0)})
    data = load_data(frame, missing="category")
    pd.testing.assert_frame_equal(data.schema.decode(data.schema.encode(frame)), frame, rtol=1e-5, atol=1e-5)
    frame = pl.DataFrame({"flag": flags, "t": ["a", None, "b"] * 8})
    data = load_data(frame, missing="category")
    assert data.schema.decode(data.schema.encode(frame)).equals(frame)


def with_column(**columns) -> pd.DataFrame:
    return pandas_table()[["height", "city"]].assign(**columns)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (with_column(k=1), r"Column\(s\) 'k' hold one value only and carry no information. Leave them out: drop=\['k'\]"),
        (with_column(k="same", j=0.5), r"Column\(s\) 'k', 'j' hold one value only"),
        (with_column(e=np.nan), r"Column\(s\) 'e' are empty. Leave them out: drop=\['e'\]"),
        (with_column(m=[1, "a"] * (N // 2)), "Column 'm' mixes types: 60 int, 60 text; row . holds .* all numbers or all text"),
        (with_column(m=[*map(str, range(N - 1)), "n/k"]), r"mixes numbers and text: 119 numbers and 1 texts, 'n/k' in row 119"),
        (with_column(name=[f"Mr {i}" for i in range(N)]), r"'name' holds 120 different texts in 120 rows: .* identifier.*drop=\['name'\]"),
        (with_column(day=pd.date_range("2020", periods=N)), "Column 'day' has dtype datetime64.* number .* or text, or drop="),
        (with_column(z=np.arange(N) * 1j), "Column 'z' has dtype complex128"),
        (with_column(o=[[1]] * N), "Column 'o' holds list objects"),
        (with_column(h=np.where(np.arange(N) == 17, np.inf, 1.5)), r"Column 'h', row 17 is infinite \(inf\). Clip it or drop the row"),
        (pandas_table().iloc[:5], "5 records are too few"),
        (pd.DataFrame([[1, 2]] * 20, columns=["a", "a"]), r"Column name\(s\) 'a' appear more than once"),
        (pd.DataFrame([[1, 2]] * 20, columns=[("a", 1), ("a", 2)]), "neither text nor an integer"),
        (pl.DataFrame({"a": range(20), "d": [None] * 20}), r"Column\(s\) 'd' are empty"),
        (pl.DataFrame({"a": range(20), "d": [[1]] * 20}), "Column 'd' has dtype List"),
    ],
)
def test_bad_tables_name_the_column(frame, text):
    with pytest.raises(DataError, match=text):
        load_data(frame)


def test_a_few_numbers_among_words_are_categories():
    frame = with_column(grade=np.random.default_rng(0).choice(["1", "2", "3+"], N))
    assert str(load_data(frame).schema.columns[-1].support) == "categories(3)"


def test_encode_names_what_does_not_fit():
    frame = pandas_table()[["height", "children", "city", "owner"]]
    schema = load_data(frame).schema
    cases = [
        (frame.drop(columns="height"), r"Column\(s\) 'height' are missing"),
        (frame.rename(columns={"height": "hieght"}), r"'height' are missing. Did you mean 'hieght'"),
        (frame.assign(extra=1), r"Column\(s\) 'extra' were not in the training data. Leave them out: df.drop"),
        (frame.assign(city="Berne"), "Column 'city', row 0: category 'Berne' was not in the training data. Did you mean 'Bern'"),
        (frame.assign(city=3), "Column 'city', row 0: category 3"),
        (frame.assign(height="tall"), "Column 'height' needs numbers; row 0 holds 'tall'"),
        (frame.assign(height=np.where(np.arange(N) == 8, np.inf, 1)), "Column 'height', row 8: inf is not finite"),
        (frame.assign(children=np.where(np.arange(N) == 8, 9, 1)), "'children', row 8: 9 is outside 0 to 4, .*{'children': 'real'}"),
        (
            frame.assign(children=0.5),
            r"'children', row 0: 0.5 \(with 119 more rows\) is no whole number, and the column is levels\(5\). Round it",
        ),
        (frame.to_numpy(), "takes tables with columns 'height', 'children', 'city', 'owner'; got ndarray"),
    ]
    for records, text in cases:
        with pytest.raises(DataError, match=text):
            schema.encode(records)


def test_summary_lists_the_columns():
    text = load_data(pandas_table()).summary()
    for part in ("support        values", "height    float64         real ", "Bern, Chur, Genf", "levels(5)", "0 to 4", "mixed"):
        assert part in text
