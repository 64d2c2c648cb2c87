"""The command line: flags follow from the library, results round-trip, and misuse is one clear message."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pushforward as pf
from pushforward.cli import app
from pushforward.signatures import Field, field_docs, parameter_docs, parameters


def cli(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, f"{args}: {result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE on two columns of numbers, read from a .npy file."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "points.npy", np.random.default_rng(0).normal(3, 2, size=(200, 2)))
    flags = ["--steps", "4", "--batch-size", "16", "--latent-dim", "1", "--hidden", "8", "8", "--no-progress"]
    cli("fit", "vae", "--data", str(folder / "points.npy"), *flags, "--out", str(folder / "run"))
    return folder / "run"


# -- what is derived -------------------------------------------------------------------------------------------------------


def test_fit_stores_what_the_flags_said(run: Path):
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["latent_dim"] == 1
    assert config["config"]["hidden"] == [8, 8]
    assert config["training"]["steps"] == 4
    assert config["training"]["lr"] == pf.catalog()["vae"].training.lr, "a flag that was not given leaves the family's own default"


def test_every_hyperparameter_of_every_model_is_a_flag_with_help():
    for name, model in pf.catalog().items():
        shown = cli("fit", name, "--help").output
        for field in parameters(model):
            assert field.help, f"{name}: {field.name} is not documented in the class docstring"
            if field.textual:
                assert field.flag in shown, f"{name}: {field.flag}"
        assert "--minutes" in shown
        assert "--data" in shown


def test_every_training_setting_is_documented():
    assert {f.name for f in parameters(pf.Training)} == set(field_docs(pf.Training))


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "3", 3),
        (float | None, "none", None),
        (float | None, "1e-3", 1e-3),
        (int | str, "auto", "auto"),
        (int | str, "2", 2),
        (tuple[int, ...], "256,256", (256, 256)),
        (tuple[float, float], "0.5 0.9", (0.5, 0.9)),
        (tuple[int, ...], "64", (64,)),
        (bool | None, "yes", True),
    ],
)
def test_text_is_parsed_by_the_annotation(annotation, text, value):
    parsed = Field("x", annotation, None, "").parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_numpydoc_parameters():
    doc = """What it is.

    Parameters
    ----------
    a, b : int
        Both of
        them.
    c
        The other.

    Returns
    -------
    nothing
        Not a parameter.
    """
    assert parameter_docs(doc) == {"a": "Both of them.", "b": "Both of them.", "c": "The other."}


def test_models_from_text():
    from pushforward.signatures import models_from_text

    first, second = models_from_text("vae:hidden=8,8:latent-dim=3,gan")
    assert (first.name, first.hidden, first.latent_dim, second.name) == ("vae", (8, 8), 3, "gan")
    with pytest.raises(pf.ConfigError, match="vae has no hyperparameter 'latent_dims'. Did you mean 'latent_dim'"):
        models_from_text("vae:latent-dims=3")


# -- commands --------------------------------------------------------------------------------------------------------------


def test_sample_in_each_form(run: Path, tmp_path: Path):
    first = cli("sample", str(run), "-n", "5", "--seed", "1", "--out", str(tmp_path / "a.csv"))
    assert "5 records" in first.output
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0] == ["x0", "x1"]
    cli("sample", str(run), "-n", "5", "--seed", "1", "--out", str(tmp_path / "a.npy"))
    array = np.load(tmp_path / "a.npy")
    np.testing.assert_allclose(array, np.array(rows[1:], dtype=float), rtol=1e-6)
    cli("sample", str(run), "-n", "5", "--seed", "1", "--out", str(tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(file["x"], array)
    printed = cli("sample", str(run), "-n", "5", "--seed", "1").stdout
    assert printed.splitlines()[0] == "x0,x1"
    assert "cannot hold these records" in cli("sample", str(run), "--out", str(tmp_path / "a.doc"), code=1).output
    assert "is there already" in cli("sample", str(run), "--out", str(tmp_path / "a.npy"), code=1).output
    cli("sample", str(run), "-n", "2", "--overwrite", "--out", str(tmp_path / "a.npy"))
    assert len(np.load(tmp_path / "a.npy")) == 2


def test_log_prob_of_a_file_is_in_its_order(run: Path, tmp_path: Path):
    records = np.load(run.parent / "points.npy")
    shown = cli("log-prob", str(run), "--data", str(run.parent / "points.npy"), "--seed", "3", "--out", str(tmp_path / "v.csv")).output
    values = np.loadtxt(tmp_path / "v.csv", skiprows=1)
    expected = pf.load(run).log_prob(records.astype(np.float64), seed=3).numpy()
    # The same numbers, record for record: read in float32 they agree to its rounding.
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert f"{values.mean():.4f} ± " in shown
    assert "(bound), 200 records" in shown
    assert "held-out records" in cli("log-prob", str(run)).output


def test_new_records_are_read_as_the_run_read_its_own(tmp_path: Path):
    random = np.random.default_rng(0)
    lines = [f"{x:.3f},{'ab'[int(x > 0)]}" for x in random.normal(size=100)]
    (tmp_path / "t.csv").write_text("x,kind\n" + "\n".join(lines) + "\n")
    run, data = str(tmp_path / "run"), str(tmp_path / "t.csv")
    cli("fit", "vae", "--data", data, "--label", "kind", "--condition", "--steps", "2", "--batch-size", "16", "--no-progress", "--out", run)
    assert "100 records" in cli("log-prob", run, "--data", data).output
    assert "nats per record" in cli("evaluate", run, "--data", data).output
    assert cli("sample", run, "-n", "2", "--condition", "a").stdout.splitlines()[0] == "x"
    assert "Did you mean 'a'" in cli("sample", run, "--condition", "aa", code=1).output


def test_evaluate_writes_figures(run: Path, tmp_path: Path):
    shown = cli("evaluate", str(run), "--out", str(tmp_path / "e.json")).output
    assert "nats per record (bound)" in shown
    assert json.loads((tmp_path / "e.json").read_text())["kind"] == "bound"


def test_resume_with_a_larger_budget(run: Path):
    before = pf.load(run).state_dict()
    message = cli("resume", str(run), code=1).output
    assert "has finished its budget" in message
    cli("resume", str(run), "--steps", "6", "--no-progress")
    after = pf.load(run).state_dict()
    assert any(not np.array_equal(before[k], after[k]) for k in before)


def test_images_as_picture_and_folder(tmp_path: Path):
    from PIL import Image

    cli("fit", "gmm", "--data", "digits", "--no-progress", "--out", str(tmp_path / "run"))
    cli("sample", str(tmp_path / "run"), "-n", "5", "--out", str(tmp_path / "grid.png"))
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 100
    cli("sample", str(tmp_path / "run"), "-n", "5", "--out", str(tmp_path / "folder"))
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [f"{i:05d}.png" for i in range(5)]
    assert "is there already" in cli("sample", str(tmp_path / "run"), "--out", str(tmp_path / "folder"), code=1).output
    assert "Images need --out" in cli("sample", str(tmp_path / "run"), code=2).output


def test_listings():
    shown = cli("models").output
    for name in pf.catalog():
        assert name in shown
    assert "latent_dim" in cli("models", "vae").output
    assert "1797" in cli("data", "digits").output


def test_verify_names_what_fails(monkeypatch: pytest.MonkeyPatch):
    from pushforward import verify
    from pushforward.known import Known

    good, bad = Known("half", 0.5, 0.5, 0.0, "exact"), Known("two", 2.0, 3.0, 0.1, "rounding")
    monkeypatch.setitem(sys.modules["pushforward.verify"].__dict__, "verify", lambda only: iter([("m", good)]))
    assert "1 of 1 known answers hold" in cli("verify").output
    monkeypatch.setitem(sys.modules["pushforward.verify"].__dict__, "verify", lambda only: iter([("m", good), ("m", bad)]))
    shown = cli("verify", code=1).output
    assert "m: two differs by 1, more than 0.1 (rounding)" in shown
    monkeypatch.undo()
    assert "No known answers are stated by 'nonsense'" in cli("verify", "nonsense", code=2).output
    assert list(verify(["gan"]))


# -- misuse ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["fti"], 2, "pushforward has no command 'fti'. Did you mean 'fit'?"),
        (["fit", "vaee", "--data", "digits"], 2, "no model 'vaee'. Did you mean 'vae'?"),
        (["fit", "vae", "--data", "digits", "--latent-dims", "2"], 2, "has no option --latent-dims. Did you mean '--latent-dim'?"),
        (["fit", "vae", "--data", "digits", "--latent-dim", "two"], 2, "--latent-dim cannot be 'two'; it takes INT"),
        (["fit", "gan", "--data", "digits", "--loss", "wasserstien"], 2, "Did you mean 'wasserstein'?"),
        (["fit", "vae"], 2, "Missing option '--data'"),
        (["fit", "--data", "digits", "vae"], 2, "Give the MODEL first"),
        (["fit", "vae", "--data", "digitz"], 1, "Did you mean 'digits'?"),
        (["sample", "nowhere"], 1, "There is no run folder nowhere"),
        (["models", "vaee"], 2, "Did you mean 'vae'?"),
    ],
)
def test_misuse_is_one_message(args: list[str], code: int, said: str):
    result = cli(*args, code=code)
    assert said in result.output
    assert "Traceback" not in result.output


def test_debug_shows_where():
    assert isinstance(CliRunner().invoke(app, ["models", "vaee", "--debug"]).exception, pf.ConfigError)


def test_help_is_light():
    code = "import sys; from pushforward.cli import app\ntry: app.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'pandas', 'rich', 'lightning_fabric'} & set(sys.modules), sys.modules.keys()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("fit", "resume", "sample", "log-prob", "evaluate", "compare", "models", "data", "verify"):
        assert name in shown


def test_interrupt_saves_and_says_how_to_go_on(tmp_path: Path):
    run = tmp_path / "run"
    fit = ["fit", "vae", "--data", "digits", "--epochs", "100000", "--checkpoint-every", "0.1", "--no-progress", "--out", str(run)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "pushforward", *fit], stderr=subprocess.PIPE, text=True, env=env) as process:
        deadline = time.monotonic() + 60
        while not (run / "checkpoint" / "last.safetensors").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"pushforward resume {run}" in said
    assert "Traceback" not in said
