"""Where diffusers declares a class: each folder is read once, for architecture and knobs alike."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.errors import Unavailable
from tuner.model import architecture, diffusers_source


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nothing is known of diffusers yet, nor after the test of what it made up."""
    names = ("root", "class_files", "class_source", "class_tree", "parameters", "imported_sources")
    caches = (*(getattr(diffusers_source, name) for name in names), architecture._class)
    for known in caches:
        known.cache_clear()
    yield
    for known in caches:
        known.cache_clear()


def test_each_file_of_a_folder_is_searched_once(forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: searched.append(file) or read(file))
    for name in ("FluxTransformer2DModel", "SD3Transformer2DModel", "NoSuchModel"):
        assert bool(diffusers_source.class_source("models", name)) == (architecture._class("models", name) is not None)
    assert len(set(searched)) == len(searched) > 50


def test_the_file_is_the_first_that_declares_the_class(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "b.py").write_text("class Model(Base):\n    b = 1\n")
    (tmp_path / "models" / "a.py").write_text("class Models:\n    pass\n\nclass Model:\n    'é'\n", encoding="utf-8")
    (tmp_path / "models" / "text.py").write_text('TEXT = """\nclass OnlyText:\n"""\n')
    monkeypatch.setattr(diffusers_source, "root", lambda: tmp_path)
    assert diffusers_source.class_files("models")["Model"].name == "a.py"
    assert "é" in diffusers_source.class_source("models", "Model")
    found = architecture._class("models", "Model")
    assert found is not None
    assert found.tree.name == "Model"
    assert architecture._class("models", "OnlyText") is None
    assert diffusers_source.class_source("pipelines", "Model") == ""
    monkeypatch.undo()


def test_without_diffusers_nothing_is_declared(forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert diffusers_source.class_source("models", "FluxTransformer2DModel") == ""
    with pytest.raises(Unavailable, match="pip install diffusers"):
        architecture._class("models", "FluxTransformer2DModel")
