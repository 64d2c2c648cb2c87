"""Arrays and tensors: what support they get, that they come back as they went in, and what is said when they cannot."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pushforward.data import BINARY, REAL, Schema, as_data, levels, load_data
from pushforward.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)


def through_json(schema):
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    return again


@pytest.mark.parametrize(
    ("array", "kind", "shape", "support"),
    [
        (RANDOM.normal(size=(40, 3)), "points", (3,), REAL),
        (RANDOM.normal(size=(40, 5, 4)), "image", (1, 5, 4), REAL),
        (RANDOM.integers(0, 256, (40, 28, 20), dtype=np.uint8), "image", (1, 28, 20), levels(256)),
        (RANDOM.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8), "image", (3, 6, 5), levels(256)),
        (RANDOM.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8), "image", (3, 6, 5), levels(256)),
        (RANDOM.integers(0, 256, (40, 6, 6, 1), dtype=np.uint8), "image", (1, 6, 6), levels(256)),
        (RANDOM.integers(0, 2, (40, 6, 6), dtype=np.uint8), "image", (1, 6, 6), BINARY),
        (RANDOM.integers(0, 2, (40, 6, 6), dtype=np.uint8) * np.uint8(255), "image", (1, 6, 6), BINARY),
        (RANDOM.random((40, 7)) > 0.5, "points", (7,), BINARY),
        (np.tile(np.arange(-3, 9), (40, 1)), "points", (12,), levels(12)),
        (RANDOM.integers(0, 10**6, (40, 2)), "points", (2,), REAL),
    ],
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_support_and_round_trip(array, kind, shape, support, library):
    source = torch.from_numpy(array) if library == "torch" else array
    data = load_data(source)
    assert (data.spec.kind, data.spec.shape, data.spec.supports) == (kind, shape, (support,))
    schema = through_json(data.schema)
    x = schema.encode(source)
    assert x.shape == (40, *shape)
    assert x.dtype == torch.float32
    back = schema.decode(x)
    assert type(back) is type(source)
    assert back.dtype == source.dtype
    # float32 keeps 24 bits: after shift and scale the error is at most 2^-24 of the spread, a few units of it from the two roundings.
    np.testing.assert_allclose(np.asarray(back), array, rtol=0, atol=1e-6 * float(np.abs(array).max()) if array.dtype.kind == "f" else 0)
    # The stored records are those of the source, in the order that `order` says.
    stored = torch.cat([p.tensor() for p in (data.train, data.validation, data.test)])
    torch.testing.assert_close(stored, x[data.order], rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=10, max_side=14),
        elements=st.integers(0, 1),
    ),
    st.integers(-300, 300),
)
def test_discrete_values_come_back_exactly(array, offset):
    if array.dtype.kind == "i":
        array = array * 7 + offset
    if array.min() == array.max():
        return
    data = load_data(array)
    back = data.schema.decode(data.schema.encode(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-1e6, 1e6), st.integers(1, 4))
def test_log_det_is_that_of_the_map(scale, shift, columns):
    u = shift + scale * np.random.default_rng(1).normal(size=(50, columns))
    schema = load_data(u).schema
    # The map is affine, so a step of h in x moves u by scale * h in that column, exactly up to rounding.
    step = schema.decode(torch.ones(1, columns, dtype=torch.float64)) - schema.decode(torch.zeros(1, columns, dtype=torch.float64))
    # Rounding: u is known to 2^-53 |shift|, the step to twice that, against a scale of at least 0.5 `scale`.
    assert schema.log_det == pytest.approx(-np.log(step).sum(), abs=columns * (1e-9 + 1e-15 * (abs(shift) + 1) / scale))


def test_ten_times_the_data_lowers_log_det_by_d_log_ten():
    u = RANDOM.normal(size=(60, 3)) + [1, 100, -5]
    images = RANDOM.normal(size=(60, 4, 5))
    for array, entries in ((u, 3), (images, 20)):
        once, ten = load_data(array), load_data(10 * array)
        # x is the same in both to the rounding of float64 arithmetic, stored as float32.
        torch.testing.assert_close(ten.train.x, once.train.x, rtol=0, atol=1e-6)
        assert ten.schema.log_det - once.schema.log_det == pytest.approx(-entries * math.log(10), abs=1e-9)


def test_scaling_is_that_of_the_training_records_alone():
    u = RANDOM.normal(5, 3, size=(100, 2))
    data = load_data(u, seed=3)
    train = data.train.x.double()
    # float32 storage: the mean of 80 values of order 1 is off by at most 2^-24 each.
    torch.testing.assert_close(train.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert data.test.x.double().mean(0).abs().min() > 1e-4


def test_large_offsets_lose_nothing_to_float32():
    u = 1e9 + RANDOM.normal(size=(50, 1))
    data = load_data(u)
    # Standardised in float64 first: float32 then keeps the spread to 2^-24 (of at most 5 sd); float64 keeps 1e9 to 1e-7.
    np.testing.assert_allclose(data.train.records(), u[data.order[:40]], rtol=0, atol=1e-6)


def test_unit_support():
    u = RANDOM.random((40, 3))
    data = load_data(u, support="unit")
    assert str(data.spec.support) == "unit"
    assert data.schema.log_det == 0
    grey = RANDOM.integers(0, 256, (40, 4, 4), dtype=np.uint8)
    data = load_data(grey, support="unit")
    assert data.train.x.max() <= 1
    assert data.schema.log_det == pytest.approx(-16 * math.log(255))
    np.testing.assert_array_equal(data.train.records(), grey[data.order[:32]])


def test_wide_integers_are_rounded_and_stay_in_their_dtype():
    u = RANDOM.integers(0, 30000, (40, 2)).astype(np.int16)
    schema = load_data(u).schema
    back = schema.decode(torch.full((1, 2), 1e6))
    assert back.dtype == np.int16
    assert (back == np.iinfo(np.int16).max).all()
    big = np.array([[0], [2**62]] * 10)
    # The largest float64 below 2^63 is 2^63 - 1024.
    assert load_data(big).schema.decode(torch.full((1, 1), 100.0)).item() == 2**63 - 1024
    for dtype in (np.uint16, np.uint64, np.float16, ">f8", ">i4"):
        u = RANDOM.integers(0, 300, (40, 2)).astype(dtype)
        assert load_data(u).test.records().dtype == np.dtype(dtype).newbyteorder("=")
    assert load_data(torch.randn(40, 2).bfloat16()).test.records().dtype == torch.float32


@pytest.mark.parametrize(
    ("array", "options", "text"),
    [
        (np.zeros(20), {}, r"shape \(20,\), of 1 axes; records need 2, 3 or 4. Reshape it: .*x.reshape\(-1, 1\)"),
        (np.zeros((9, 2, 2, 2, 2)), {}, "of 5 axes"),
        (np.zeros((20, 3, 8, 4)), {}, "both axis 1 and axis 3 could be the channels. Say channels='first'"),
        (np.zeros((20, 2, 8, 7)), {}, "neither axis 1 nor axis 3 looks like the channels. Say channels="),
        (np.zeros((20, 3, 8, 4)), {"channels": "middle"}, "channels='middle' is not known"),
        (np.ones((20, 3)), {}, "Every value of the array is 1: there is nothing to model"),
        (np.empty((0, 3)), {}, "is empty. Give at least 10 records"),
        (np.random.default_rng(0).normal(size=(9, 3)), {}, "9 records are too few .* at least 10"),
        (np.array([["a", "b"]] * 20), {}, "dtype <U1; give numbers or booleans"),
        (np.zeros((20, 2), dtype=complex), {}, "dtype complex128"),
        (np.random.default_rng(0).normal(size=(20, 3)), {"support": "levels"}, "needs whole numbers"),
        (np.arange(40).reshape(20, 2), {"support": "levels(8)"}, r"spans 0 to 39. Use 'levels\(40\)'"),
        (np.arange(40).reshape(20, 2), {"support": "binary"}, "needs two values"),
        (np.arange(40.0).reshape(20, 2), {"support": "unit"}, "support='unit' needs numbers from 0 to 1; the array spans 0 to 39"),
        (np.arange(40).reshape(20, 2), {"support": "levles"}, "support='levles' is not known. Did you mean 'levels'"),
        (np.arange(40.0).reshape(20, 2), {"binarize": "dynamic"}, "binarize= needs grey values"),
        (np.arange(40).reshape(20, 2), {"binarize": "random"}, "binarize='random' is not known"),
        (np.arange(40).reshape(20, 2), {"label": [1, 2]}, "2 labels for 20 records"),
        (np.arange(40).reshape(20, 2), {"label": "y"}, "label='y' names a column of a table"),
        (np.arange(40).reshape(20, 2), {"columns": ["a"]}, "columns= does not apply to a array|columns= does not apply to an array"),
        (np.arange(40).reshape(20, 2), {"validation": 0.6, "test": 0.5}, "Hold out fewer"),
        (np.arange(40).reshape(20, 2), {"test": -1}, "test=-1 is neither a share"),
    ],
)
def test_bad_arrays_say_what_and_what_to_do(array, options, text):
    with pytest.raises((DataError, ConfigError), match=text):
        load_data(array, **options)


def test_constant_columns_are_named():
    u = RANDOM.normal(size=(30, 4))
    u[:, [1, 3]] = 0.1
    with pytest.raises(DataError, match=r"Column\(s\) 1, 3 of the array hold one value only .* np.delete\(x, \[1, 3\], axis=1\)"):
        load_data(u)


@pytest.mark.parametrize(("value", "name", "remedy"), [(np.nan, "nan", "missing='drop'"), (np.inf, "inf", "Clip or remove")])
def test_values_that_are_not_finite_are_named(value, name, remedy):
    u = RANDOM.normal(size=(30, 4))
    u[[7, 9], 2] = value
    with pytest.raises(DataError, match=f"holds {name} in 2 of 30 rows, first at row 7, column 2. .*{remedy}"):
        load_data(u)
    good = load_data(RANDOM.normal(size=(30, 4)))
    with pytest.raises(DataError, match=f"holds {name} in 2 of 30 rows, first at row 7, column 2"):
        good.schema.encode(u)


def test_missing_drop_leaves_rows_out_and_says_so():
    u = RANDOM.normal(size=(30, 4))
    u[[7, 9], 2] = np.nan
    data = load_data(u, missing="drop", label=np.arange(30) % 2)
    assert len(data) == 28
    assert "2 of 30 records dropped" in data.summary()
    kept = np.delete(np.arange(30), [7, 9])
    np.testing.assert_array_equal(data.train.labels(), kept[data.order[:22]] % 2)


def test_encode_refuses_what_was_not_fitted():
    schema = load_data(RANDOM.integers(0, 256, (40, 6, 5), dtype=np.uint8)).schema
    with pytest.raises(DataError, match=r"shape \(2, 5, 6\); this model takes \(n, 6, 5\)"):
        schema.encode(np.zeros((2, 5, 6), dtype=np.uint8))
    with pytest.raises(DataError, match=r"Add the axis of records: x\[None\]"):
        schema.encode(np.zeros((6, 5), dtype=np.uint8))
    wrong = np.zeros((3, 6, 5))
    wrong[1, 2, 3] = 0.5
    with pytest.raises(DataError, match=r"Value 0.5 at row 1, pixel \(2, 3\) is outside the support: whole numbers 0 to 255"):
        schema.encode(wrong)
    with pytest.raises(DataError, match="Value 300 .* support='real'"):
        schema.encode(np.full((1, 6, 5), 300))
    with pytest.raises(DataError, match="is a table"):
        schema.encode(pd.DataFrame({"a": [1]}))
    binary = load_data(RANDOM.integers(0, 2, (40, 3), dtype=np.uint8) * np.uint8(255)).schema
    with pytest.raises(DataError, match="Value 7 at row 0, column 0 .* whole numbers 0 to 255 in steps of 255"):
        binary.encode(np.full((1, 3), 7))


def test_labels_are_classes_or_vectors():
    u = RANDOM.normal(size=(30, 2))
    data = load_data(u, label=np.array(["b", "a", "c"] * 10))
    c = through_json(data.schema).condition
    assert str(c) == "label: a, b, c"
    assert data.train.labels().tolist() == [["b", "a", "c"][i % 3] for i in data.order[:24].tolist()]
    assert c.encode("b", 2).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert c.encode(["c", "a"], 2).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(DataError, match=r"condition 'label' has no class 'bb' \(row 1\). Did you mean 'b'"):
        c.encode(["a", "bb"], 2)
    with pytest.raises(DataError, match="give one label for all, or one for each of the 3 records"):
        c.encode(["a", "b"], 3)
    numbers = load_data(u, label=np.arange(30) % 3 + 4).schema.condition
    for label in (5, "5", np.int64(5), 5.0, torch.tensor(5)):
        assert numbers.encode(label, 1).tolist() == [[0, 1, 0]]
    vector = load_data(u, label=u * 10 + 3).schema.condition
    assert (vector.kind, vector.dim) == ("vector", 2)
    torch.testing.assert_close(vector.encode([3.0, 3.0], 4), vector.encode(np.full((4, 2), 3.0), 4))
    np.testing.assert_allclose(vector.labels(vector.store(u)), u, atol=1e-5)
    with pytest.raises(DataError, match="give .2,. for all or .4, 2. for each"):
        vector.encode(np.zeros((4, 3)), 4)
    with pytest.raises(DataError, match="a vector of 2 numbers"):
        vector.encode(["a", "b"], 1)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ([1, None] * 15, "missing in 15 rows"),
        ([1, "a"] * 15, "mix types"),
        (np.where(np.arange(30) == 4, np.nan, 1.0), "NaN or infinite values, the first in row 4"),
        (np.zeros((30, 2, 2)), "give one label .n,. or one vector"),
    ],
)
def test_bad_labels(label, text):
    with pytest.raises(DataError, match=text):
        load_data(RANDOM.normal(size=(30, 2)), label=label)


def test_as_data_gives_labels_to_data_in_the_order_of_the_source():
    data = load_data(RANDOM.normal(size=(30, 2)))
    assert as_data(data) is data
    labelled = as_data(data, label=np.arange(30) % 3)
    assert labelled.train.x.data_ptr() == data.train.x.data_ptr()
    np.testing.assert_array_equal(labelled.test.labels(), data.order[-3:] % 3)
    with pytest.raises(DataError, match="4 labels for 30 records"):
        as_data(data, label=[1, 2, 3, 4])


def test_sources_that_are_none():
    with pytest.raises(DataError, match=r"not list. Give np.asarray"):
        load_data([[1, 2]])
    with pytest.raises(DataError, match="takes an array, a tensor, a DataFrame, a path or a name, not int"):
        load_data(3)
