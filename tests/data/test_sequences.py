"""Texts and music as records: there and back, splits that do not leak, and errors that say where and what to do."""

import builtins
import gzip
import json

import numpy as np
import pytest
import torch

from pushforward.data import Schema, categories, load_data, read_records, reload, write_records
from pushforward.data.midi import read_midi, write_midi
from pushforward.errors import ConfigError, DataError, RunError

RANDOM = np.random.default_rng(0)
TEXT = "".join(RANDOM.choice(list("abcd \n"), 1000))
PIECES = [[[60, 64, 67], [60], [], [62, 65]][: 2 + i % 3] for i in range(20)]
WORDS = "the cat sat\nthe dog sat\n" * 30 + "a bird flew\n"


def test_long_text_is_cut_into_windows_and_parts_share_nothing(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    data = load_data(str(path), length=16, test=0.2)
    assert str(data.spec) == f"sequence 16, {categories(len(set(TEXT)))}"
    assert data.train.x.dtype == torch.uint8
    # 70 % of 1000 characters, a window every 2; then whole windows of 100 and of 200.
    assert data.counts() == {"train": (700 - 16) // 2 + 1, "validation": 100 // 16, "test": 200 // 16}
    assert data.train.records()[:3] == [TEXT[0:16], TEXT[2:18], TEXT[4:20]]
    assert "".join(data.validation.records()) == TEXT[700:796]
    assert "".join(data.test.records()) == TEXT[800:992]
    assert reload(data.describe()).fingerprint() == data.fingerprint()
    schema = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    assert schema == data.schema
    assert schema.decode(schema.encode(TEXT[:40])) == [TEXT[:16], TEXT[16:32]]


def test_nothing_is_held_out_where_not_asked(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    data = load_data(tmp_path / "a.txt", length=10, test=0)
    assert data.counts() == {"train": 891, "validation": 10, "test": 0}  # every 10 // 8 = 1 of 900


def test_lines_are_records_with_an_end(tmp_path):
    lines = [TEXT[i : i + 1 + i % 7].replace("\n", " ") for i in range(0, 600, 10)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    data = load_data(tmp_path / "a.txt", lines=True)
    kept = [line for line in lines if line.strip()]
    assert data.spec.ends
    assert data.spec.shape == (7,)
    assert sorted(r for part in (data.train, data.validation, data.test) for r in part.records()) == sorted(kept)
    assert [kept[i] for i in data.order.tolist()][:5] == data.train.records()[:5]
    assert read_records(tmp_path / "a.txt", lines=True)[0] == kept
    end = data.spec.supports[0].size - 1
    assert data.schema.encode(["ab"]).tolist()[0][2:] == [end] * 5
    assert data.schema.text([1, end, 2]) == data.schema.symbols[1]  # nothing is read after the first end


def test_long_lines_are_cut_after_the_split():
    texts = ["a" * 5 + "b" * 4 for _ in range(20)]
    data = load_data(texts, length=4)
    assert data.counts() == {"train": 48, "validation": 6, "test": 6}  # 9 = 4 + 4 + 1
    assert data.test.records()[:3] == ["aaaa", "abbb", "b"]
    assert "20 of 20 pieces are longer than 4" in data.summary()


def test_words_have_a_vocabulary_of_the_training_part_and_an_unknown_one(tmp_path):
    (tmp_path / "a.txt").write_text(WORDS)
    data = load_data(tmp_path / "a.txt", tokens="words", length=8, validation=0.2, test=0)
    # 195 of 244 words to train on: 49 of "sat" and "the", 48 ends of line, 25 and 24 of the animals; "a bird flew" is held out.
    assert data.schema.symbols == ("<unk>", "sat", "the", "\n", "cat", "dog")
    assert data.validation.records()[0].count("\n") == 2
    assert data.schema.decode(data.schema.encode(["the cat flew\nthe dog sat\n"])) == ["the cat <unk>\nthe dog sat\n"]
    assert "6.12% of held-out words are unknown" in data.summary()  # 3 of 49
    small = load_data(tmp_path / "a.txt", tokens="words", length=8, vocabulary=3)
    assert small.schema.symbols == ("<unk>", "\n", "sat")
    own = load_data(["<unk> once", "twice twice"] * 6 + ["rare <unk>"], tokens="words", validation=0, test=0)
    assert "rare" in own.schema.symbols  # the text has unknown words of its own, so every other is kept


def test_a_part_may_have_a_file_of_its_own(tmp_path):
    for name, text in (("train", WORDS), ("valid", "the bird sat\n" * 6), ("test", "a cat\n" * 9)):
        (tmp_path / f"{name}.txt").write_text(text)
    valid, test = str(tmp_path / "valid.txt"), tmp_path / "test.txt"
    data = load_data(tmp_path / "train.txt", tokens="words", length=8, validation=valid, test=test)
    # All 244 words of the source are for training: those that occur twice or more are known; bird and a are not, wherever they stand.
    assert data.schema.symbols == ("<unk>", "\n", "sat", "the", "cat", "dog")
    assert data.counts() == {"train": 237, "validation": 24 // 8, "test": 27 // 8}
    assert data.validation.records()[0] == "the <unk> sat\nthe <unk> sat\n"
    assert data.test.records()[0] == "<unk> cat\n<unk> cat\n<unk> cat"
    assert "29.41% of held-out words are unknown" in data.summary()  # 6 + 9 of 24 + 27
    assert "295 words" in data.summary()
    again = reload(json.loads(json.dumps(data.describe())))
    assert torch.equal(again.test.x, data.test.x)
    # A share is of the source: 24 of 244 words.
    part = load_data(tmp_path / "train.txt", tokens="words", length=8, test=test)
    assert part.counts() == {"train": 220 - 7, "validation": 24 // 8, "test": 27 // 8}
    # Characters have the alphabet of all three.
    letters = load_data(tmp_path / "train.txt", length=8, validation=0, test=test)
    assert letters.counts() == {"train": len(WORDS) - 7, "validation": 0, "test": 54 // 8}
    assert letters.schema.symbols == tuple(sorted(set(WORDS)))
    # Lines: those of the file are the part, in their order.
    rows = load_data(tmp_path / "train.txt", tokens="words", lines=True, validation=valid, test=0.2)
    assert rows.counts() == {"train": 61 - 12, "validation": 6, "test": 12}
    assert rows.validation.records() == ["the <unk> sat"] * 6
    assert rows.order.tolist()[49:55] == list(range(61, 67))


def test_files_of_parts_say_what_they_may_be(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "short.txt").write_text("ab")
    np.save(tmp_path / "a.npy", np.zeros((20, 2), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((20, 2), np.float32))
    with pytest.raises(
        ConfigError, match=r"test='.*b.npy' is a file, which a text file may have beside it; .*a.npy is a .npy or .npz file. Give"
    ):
        load_data(tmp_path / "a.npy", test=tmp_path / "b.npy")
    with pytest.raises(ConfigError, match="the list is a text in memory. Give a share"):
        load_data(["abc", "cab"] * 10, test=str(tmp_path / "a.txt"))
    with pytest.raises(ConfigError, match=r"validation=.*b.npy is a .npy or .npz file. Give a text file"):
        load_data(tmp_path / "a.txt", validation=tmp_path / "b.npy")
    with pytest.raises(DataError, match=r"There is no file or folder .*none.txt"):
        load_data(tmp_path / "a.txt", length=8, validation=tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"a part of 2 characters is shorter than a record of 8. Change what is held out"):
        load_data(tmp_path / "a.txt", length=8, validation=tmp_path / "short.txt")


def test_pieces_keep_their_own_split(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"test": PIECES[:3], "train": PIECES[3:15], "valid": PIECES[15:]}).encode()))
    data = load_data(str(path))
    assert data.counts() == {"train": 12, "validation": 5, "test": 3}
    assert data.test.records() == PIECES[:3]
    assert data.train.records() == PIECES[3:15]
    assert data.spec.shape == (4, 89)
    assert data.spec.ends
    x = data.test.tensor()
    assert x[0, 0].nonzero().flatten().tolist() == [39, 43, 46]  # notes 60, 64, 67 less 21
    assert x[0, 2:].nonzero().tolist() == [[0, 88], [1, 88]]  # two steps, then the end
    assert load_data(str(path), test=2).counts() == {"train": 16, "validation": 2, "test": 2}
    assert read_records(path)[0] == PIECES


def test_pieces_of_one_length_have_no_end_and_minus_one_is_silence():
    data = load_data([[[60, -1, 40], [-1], [50]]] * 12)
    assert data.spec.shape == (3, 88)
    assert not data.spec.ends
    assert data.train.records()[0] == [[40, 60], [], [50]]
    with pytest.raises(DataError, match=r"Record 0 has 1 steps; every record of this model has 3"):
        data.schema.encode([[[60]]])
    with pytest.raises(DataError, match=r"Record 1 has 4 steps; this model takes at most 3. Cut it, or fit with load_data\(length=4\)"):
        data.schema.encode([[[60]] * 3, [[60]] * 4])


def test_labels_of_texts_and_pieces():
    data = load_data(PIECES, label=["x" if i % 2 else "y" for i in range(20)])
    assert data.spec.condition_dim == 0
    labels = [("x" if i % 2 else "y") for i in data.order.tolist()]
    assert data.train.labels().tolist() == labels[: len(data.train)]
    cut = load_data(["abcdef", "fed"] * 10, label=list(range(20)), length=3)
    assert set(zip(cut.train.records(), (cut.train.labels() % 2).tolist(), strict=True)) == {("abc", 0), ("def", 0), ("fed", 1)}


BAD = [
    ("a.txt", b"abc\n\xff\xfe", {}, r"a.txt, line 2, is no UTF-8 text"),
    ("a.txt", b"abc", {}, r"a.txt has 3 characters, too few for records of 128. Give a longer text, a smaller length="),
    ("a.txt", b"aaaa" * 100, {"length": 4}, r"holds 1 different characters: there is nothing to model"),
    ("a.txt.gz", b"abc", {}, r"a.txt.gz is damaged or no gzip file"),
    ("a.json", b'{"train": [', {}, r"a.json, line 1, is no JSON"),
    ("a.json", b'{"songs": []}', {}, r"an object with 'songs'. Give a list of pieces, or an object with the lists train, valid and test"),
    ("a.json", b'{"train": 3}', {}, r"'train' is a int, not a list of pieces"),
    ("a.json", b"[]", {}, r"holds no piece"),
    ("a.json", b"[[[60], [60, 300]]]", {}, r"piece 0, step 1, holds 300; a piano's MIDI notes are whole numbers 21 to 108"),
    ("a.json", b"[[[60], 60]]", {}, r"piece 0, step 1, is 60, not a list of MIDI notes. Give \[\] for silence"),
    ("a.json", b"[[[60]], []]", {}, r"piece 1 has no step \(1 such of 2\)"),
    ("a.json", b'{"train": [[[60]], 7]}', {}, r"train, piece 1 is no list of steps"),
]


@pytest.mark.parametrize(("name", "content", "options", "says"), BAD)
def test_bad_files_say_where_and_what_to_do(tmp_path, name, content, options, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        load_data(tmp_path / name, **options)


def test_bad_options_and_records():
    for options, says in (
        ({"tokens": "bytes"}, "tokens='bytes' is not known"),
        ({"vocabulary": 9}, "vocabulary= counts words"),
        ({"length": 1}, "length=1 is no whole number of at least 2"),
        ({"support": "real"}, "support= does not apply to a text"),
        ({"label": "author"}, "a text takes one label per record"),
        ({"data_b": ["abc"]}, "data_b= joins arrays"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_data(["abc", "cab"] * 10, **options)
    with pytest.raises(DataError, match="text 1 is empty"):
        load_data(["abc", ""] * 10)
    with pytest.raises(DataError, match="text 1 is of type int"):
        load_data(["abc", 3] * 10)
    schema = load_data(["abc", "cab"] * 10).schema
    with pytest.raises(DataError, match=r"record 0 holds 'z' \(symbol 1\), which the training text does not"):
        schema.encode(["azb"])
    with pytest.raises(DataError, match=r"Records of shape \(2, 3\) are no sequences of this kind. Give a list of texts"):
        schema.encode(np.zeros((2, 3)))
    with pytest.raises(DataError, match="Record 1 is of type int"):
        schema.encode(["abc", 3])


def test_records_reach_files(tmp_path):
    write_records(["ab\nc", "d"], tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "ab\nc\n\nd\n"
    write_records(PIECES, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == PIECES
    with pytest.raises(DataError, match=r"a.csv cannot hold these records. Give a name that ends in .json, .mid"):
        write_records(PIECES, tmp_path / "a.csv")
    with pytest.raises(RunError, match="is there already"):
        write_records(PIECES, tmp_path / "a.json")


def test_midi_names_its_extra_where_it_lacks(tmp_path, monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *a, **k: (_ for _ in ()).throw(ImportError(name)) if name == "mido" else real(name, *a, **k)
    )
    (tmp_path / "a.mid").write_bytes(b"MThd")
    for call in (lambda: load_data(tmp_path / "a.mid"), lambda: write_records(PIECES[:1], tmp_path / "b.mid")):
        with pytest.raises(DataError, match=r'pip install "pushforward\[midi\]"'):
            call()
    assert not (tmp_path / "b.mid").exists()


def test_midi_there_and_back(tmp_path):
    pytest.importorskip("mido")
    pieces = [[[60, 64], [60, 64], [60], [67], [], [55, 67]], [[72], [71], [72]], *PIECES[:10]]
    pieces = [p[: max(i for i, step in enumerate(p) if step) + 1] for p in pieces]  # silence at the end leaves no trace
    write_records(pieces, tmp_path / "music")
    found = [read_midi(p) for p in sorted((tmp_path / "music").iterdir())]
    assert found == pieces
    data = load_data(tmp_path / "music")
    assert sorted(r for part in (data.train, data.validation, data.test) for r in part.records()) == sorted(pieces)
    write_midi(pieces[0], tmp_path / "half.mid", per_beat=2)
    assert read_midi(tmp_path / "half.mid", per_beat=4)[:4] == [[60, 64]] * 4  # twice as many steps
    with pytest.raises(ConfigError, match="per_beat=0 is no whole number"):
        load_data(tmp_path / "music", per_beat=0)
    (tmp_path / "bad.mid").write_bytes(b"MThd, no more")
    with pytest.raises(DataError, match=r"bad.mid is damaged or no MIDI file"):
        load_data(tmp_path / "bad.mid")
    write_midi([[], []], tmp_path / "still.mid")
    with pytest.raises(DataError, match=r"still.mid holds no note from 21 to 108"):
        load_data(tmp_path / "still.mid")
