"""A tokenizer's files are checked before transformers reads them: each is named with what is wrong in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.errors import BadInput
from tuner.model.vocabulary import check_vocabulary

VOCAB = json.dumps({"a": 0, "b": 1, "ab": 2, "ab</w>": 3}).encode()
MERGES = b"#version: 0.2\na b\n"
FAST = json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}).encode()
PIECES = b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02" + b"\x0a\x0c\x0a\x03<s>" + b"\0" * 8
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"

FAULTS: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, "tokenizer's vocabulary, such as tokenizer.json, is missing"),
    "merges only": ({"merges.txt": MERGES}, "vocabulary, such as tokenizer.json, is missing"),
    "vocabulary without merges": ({"vocab.json": VOCAB}, "merges.txt: CLIPTokenizer reads it beside vocab.json"),
    "merges empty": ({"vocab.json": VOCAB, "merges.txt": b""}, "merges.txt: the file is empty"),
    "merges of bytes": ({"vocab.json": VOCAB, "merges.txt": b"\xff\xfe\0garbage"}, "merges.txt: not UTF-8"),
    "merges of one word": ({"vocab.json": VOCAB, "merges.txt": b"#version: 0.2\na b\ngarbage\n"}, "merges.txt: line 3"),
    "merges of three": ({"vocab.json": VOCAB, "merges.txt": b"a b ab\n"}, "merges.txt: line 1: a b ab joins no two"),
    "merges of others": ({"vocab.json": VOCAB, "merges.txt": b"x y\n"}, "merges.txt: line 1: x y joins no two"),
    "merges in HTML": ({"vocab.json": VOCAB, "merges.txt": b"<html>\x1b[2J\n"}, r"line 1: <html>\\x1b\[2J joins"),
    "vocabulary of nothing": ({"vocab.json": b"{}", "merges.txt": MERGES}, "vocab.json: it must be an object"),
    "vocabulary of a list": ({"vocab.json": b'["a"]', "merges.txt": MERGES}, "vocab.json: it must be an object"),
    "vocabulary of texts": ({"vocab.json": b'{"a": "b"}', "merges.txt": MERGES}, "vocab.json: a: b is not the number"),
    "vocabulary below 0": ({"vocab.json": b'{"a": -1}', "merges.txt": MERGES}, "vocab.json: a: -1 is not the number"),
    "vocabulary torn": ({"vocab.json": VOCAB[:20], "merges.txt": MERGES}, "vocab.json: not JSON"),
    "vocabulary nested": ({"vocab.json": b"[" * 100_000, "merges.txt": MERGES}, "vocab.json: not JSON"),
    "fast of nothing": ({"tokenizer.json": b"{}"}, "tokenizer.json: model: .* missing"),
    "fast of a list": ({"tokenizer.json": b"[]"}, "tokenizer.json: model: .* missing"),
    "fast without a vocabulary": (
        {"tokenizer.json": b'{"model": {"type": "BPE"}}'},
        "model.vocab: .* missing or empty",
    ),
    "fast of an empty one": ({"tokenizer.json": b'{"model": {"vocab": { }}}'}, "model.vocab: .* missing or empty"),
    "fast of null": ({"tokenizer.json": b'{"model": {"vocab": null}}'}, "model.vocab: .* missing or empty"),
    "fast of a text": ({"tokenizer.json": b'{"model": {"vocab": "abc"}}'}, "model.vocab: .* missing or empty"),
    "fast, model of a number": ({"tokenizer.json": b'{"model": 3}'}, "model: the object with the vocabulary"),
    "fast of no known kind": (
        {"tokenizer.json": b'{"model": {"type": "Foo", "vocab": {"a": 0}}}'},
        "model.type: Foo is none of BPE",
    ),
    "fast of texts": ({"tokenizer.json": b'{"model": {"vocab": {"a": "b"}}}'}, "model.vocab: Expected `int`"),
    "fast, a merge of one": (
        {"tokenizer.json": b'{"model": {"vocab": {"a": 0}, "merges": ["a"]}}'},
        "model.merges: a joins no two tokens",
    ),
    "fast, a merge of numbers": (
        {"tokenizer.json": b'{"model": {"vocab": {"a": 0}, "merges": [1]}}'},
        "model.merges: Exp",
    ),
    "longest of a text": (
        {"tokenizer.json": FAST, "tokenizer_config.json": b'{"model_max_length": "x"}'},
        "tokenizer_config.json: model_max_length: x is not a number",
    ),
    "longest below 1": (
        {"tokenizer.json": FAST, "tokenizer_config.json": b'{"model_max_length": -5}'},
        "model_max_length: -5 is not a number",
    ),
    "fast torn": ({"tokenizer.json": FAST[:30]}, "tokenizer.json: not JSON"),
    "fast empty": ({"tokenizer.json": b""}, "tokenizer.json: the file is empty"),
    "fast nested": ({"tokenizer.json": b'{"model":' * 100_000}, "tokenizer.json: not JSON"),
    "pieces empty": ({"spiece.model": b""}, "spiece.model: the file is empty"),
    "pieces empty beside others": ({"tokenizer.json": FAST, "spiece.model": b""}, "spiece.model: the file is empty"),
    "pieces of text": ({"spiece.model": b"not found" * 9}, "spiece.model: not a model of SentencePiece"),
    "pieces cut": ({"spiece.model": PIECES[:6]}, "spiece.model: not a model of SentencePiece"),
    "pieces of git": ({"spiece.model": LFS}, "spiece.model: a pointer of Git LFS"),
    "fast of git": ({"tokenizer.json": LFS}, "tokenizer.json: a pointer of Git LFS"),
    "model of garbage": ({"tokenizer.model": b"\x89PNG" * 9}, "tokenizer.model: not a model of SentencePiece"),
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_vocabulary_is_refused(name: str, tmp_path: Path) -> None:
    files, expected = FAULTS[name]
    write(tmp_path, {"tokenizer_config.json": b"{}"} | files)
    with pytest.raises(BadInput, match=expected) as refusal:
        check_vocabulary(tmp_path, "CLIPTokenizer")
    assert str(tmp_path) in str(refusal.value)
    assert str(refusal.value).isprintable()


SOUND: dict[str, tuple[str, dict[str, bytes]]] = {
    "fast": ("PreTrainedTokenizerFast", {"tokenizer.json": FAST}),
    "pieces with their scores": ("T5TokenizerFast", {"tokenizer.json": b'{"model": {"vocab": [ ["<pad>", 0.0]]}}'}),
    "half a surrogate pair": ("Tokenizer", {"tokenizer.json": rb'{"model": {"vocab": {"\ud800": 0}}}'}),
    "pairs, no limit": (
        "GemmaTokenizer",
        {
            "tokenizer.json": b'{"model": {"vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}}',
            "tokenizer_config.json": b'{"model_max_length": 1000000000000000019884624838656}',
        },
    ),
    "slow": ("CLIPTokenizer", {"vocab.json": VOCAB, "merges.txt": MERGES}),
    "no version, no end of line": ("CLIPTokenizer", {"vocab.json": VOCAB, "merges.txt": b"a b\r\n\na b"}),
    "more merges than are read": ("CLIPTokenizer", {"vocab.json": VOCAB, "merges.txt": b"a b\n" * 1000 + b"x y\n"}),
    "merges that are not read": ("CLIPTokenizer", {"tokenizer.json": FAST, "vocab.json": VOCAB, "merges.txt": b"x y"}),
    "words": ("BertTokenizer", {"vocab.txt": b"[PAD]\n[UNK]\n"}),
    "vocabulary alone": ("Wav2Vec2CTCTokenizer", {"vocab.json": VOCAB}),
    "SentencePiece": ("T5Tokenizer", {"spiece.model": PIECES}),
    "a model of SentencePiece": ("LlamaTokenizer", {"tokenizer.model": PIECES}),
    "a model of tiktoken": ("GLMTokenizer", {"tokenizer.model": b"IQ== 0\nIg== 1\n"}),
    "bytes": ("ByT5Tokenizer", {"added_tokens.json": b"{}"}),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_vocabulary_passes(name: str, tmp_path: Path) -> None:
    class_name, files = SOUND[name]
    write(tmp_path, files)
    check_vocabulary(tmp_path, class_name)
