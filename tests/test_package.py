"""`import pushforward` is light, and its names arrive when asked for."""

import subprocess
import sys

import pytest

import pushforward as pf

HEAVY = ("torch", "pandas", "numpy", "matplotlib", "sklearn", "scipy", "lightning_fabric", "PIL", "polars", "pyarrow", "rich", "jinja2")


def loaded_after(code: str) -> set[str]:
    code += f"\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    assert loaded_after("import pushforward; pushforward.__version__") == set()


def test_errors_are_light():
    assert loaded_after("import pushforward; pushforward.Unsupported") == set()


def test_unknown_name_suggests():
    with pytest.raises(AttributeError, match="Did you mean 'DataError'"):
        pf.DataErorr  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pf.nothing  # noqa: B018


def test_every_public_name_resolves():
    for name in pf.__all__:
        assert getattr(pf, name) is not None, name


def test_functions_win_over_modules_of_the_same_name():
    import pushforward.compare
    import pushforward.evaluate  # noqa: F401

    assert callable(pf.compare)
    assert callable(pf.evaluate)


def test_models_are_discovered():
    for model in pf.catalog().values():
        assert getattr(pf, model.__name__) is model
        assert model.__name__ in dir(pf)
