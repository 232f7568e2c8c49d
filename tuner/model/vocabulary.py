"""Check the vocabulary of a tokenizer without transformers: JSON, merges, SentencePiece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tuner.errors import BadInput
from tuner.model.json_file import read_object, read_whole, shown

FILES = (
    "tokenizer.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken", "*.bpe", "tokenizer.*", "tekken.json", "*vocab*"
)  # fmt: skip
OF_BYTES = re.compile(r"^(?:ByT5|Canine|Perceiver)Tokenizer")
"""Tokenizers whose tokens are bytes or characters: they have no vocabulary."""

PAIRED = re.compile(r"^(?:CLIP|GPT2|Qwen2|Roberta|Bart)Tokenizer")
"""Tokenizers that read vocab.json together with merges.txt."""

MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
"""The kinds of models in a tokenizer.json."""

COMPARED_LINES = 1000
"""Lines of a merges.txt that are compared with the vocabulary: some files have more merges than are read."""

SENTENCEPIECE = b"\x0a"
"""What a model of SentencePiece, a protocol buffer, begins with: its field 1, the list of pieces."""

TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")


LARGE_BYTES = 16 << 20
"""A tokenizer.json from this size on is read only as far as its vocabulary is there: all of it would take a second."""


class _Model(msgspec.Struct):
    vocab: msgspec.Raw = msgspec.Raw(b"")
    merges: msgspec.Raw = msgspec.Raw(b"[]")
    type: str | None = None


class _Tokenizer(msgspec.Struct):
    model: _Model


def check_vocabulary(folder: Path, class_name: str = "Tokenizer") -> None:
    """Check that a tokenizer's folder has a vocabulary, and that each file of it can be one."""
    found = {file for pattern in FILES for file in folder.glob(pattern)} - {folder / "tokenizer_config.json"}
    if not found - {folder / "merges.txt"} and not OF_BYTES.match(class_name):
        raise BadInput(f"{folder}: the tokenizer's vocabulary, such as tokenizer.json, is missing; download it too")
    names = {file.name for file in found}
    if PAIRED.match(class_name) and "vocab.json" in names and not names & {"merges.txt", "tokenizer.json"}:
        raise BadInput(f"{folder / 'merges.txt'}: {class_name} reads it beside vocab.json, it is missing; download it")
    _check_longest(folder / "tokenizer_config.json")
    for file in sorted(found, reverse=True):  # vocab.json before the merges that are compared with it
        if file.is_file() and not file.stat().st_size:
            raise BadInput(f"{file}: the file is empty; download it again")
        check = next((check for pattern, check in CHECKS.items() if file.match(pattern)), None)
        if check is not None:
            check(file)


def _check_longest(file: Path) -> None:
    """Check the longest prompt of a tokenizer; without a limit it is a very large number."""
    longest = read_object(file).get("model_max_length") if file.is_file() else None
    if longest is not None and not (type(longest) in (int, float) and longest >= 1):
        raise BadInput(f"{file}: model_max_length: {shown(str(longest), 40)} is not a number of tokens from 1")


def _check_tokenizer(file: Path) -> None:
    data = read_whole(file)
    try:
        model = msgspec.json.decode(data, type=_Tokenizer).model
    except (msgspec.MsgspecError, RecursionError):
        model = _model_of(file, data)
    if not re.match(rb"[{\[]\s*[^\s}\]]", bytes(model.vocab)):
        raise BadInput(f"{file}: model.vocab: the vocabulary is missing or empty; download the file again")
    if model.type is not None and model.type not in MODELS:
        raise BadInput(f"{file}: model.type: {shown(model.type, 40)} is none of {', '.join(MODELS)}")
    if len(data) < LARGE_BYTES:
        _check_parts(file, model)


def _check_parts(file: Path, model: _Model) -> None:
    """Check that the vocabulary numbers tokens, or scores pieces, and that merges join two tokens of it."""
    tokens = _decoded(file, "model.vocab", model.vocab, dict[str, int] | list[tuple[str, float]])
    merges = _decoded(file, "model.merges", model.merges, list[str | tuple[str, str]] | None) or ()
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2 or (isinstance(tokens, dict) and number < COMPARED_LINES and pair[0] not in tokens):
            raise BadInput(
                f"{file}: model.merges: {shown(str(merge), 40)} joins no two tokens; download the file again"
            )


def _decoded(file: Path, field: str, data: msgspec.Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"{file}: {field}: {shown(str(error))}; download the file again") from None
    except msgspec.MsgspecError:
        return None  # text that only Python's reader takes


def _model_of(file: Path, data: bytes) -> _Model:
    """Return the model in what only Python's reader takes for JSON, such as half surrogate pairs."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput(f"{file}: not JSON, empty or cut short; download it again") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise BadInput(f"{file}: model: the object with the vocabulary is missing; download the file again")
    return _Model(msgspec.Raw(json.dumps(model.get("vocab")).encode()), type=str(model.get("type", MODELS[0])))


def _check_tokens(file: Path) -> None:
    """Check a vocab.json: an object with the number of each token."""
    tokens = _tokens(file)
    bad = next((name for name, number in tokens.items() if type(number) is not int or number < 0), None)
    if bad is not None:
        number = shown(str(tokens[bad]), 40)
        raise BadInput(f"{file}: {shown(bad, 40)}: {number} is not the number of a token; download the file again")


def _tokens(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_whole(file))
    except (ValueError, RecursionError):
        raise BadInput(f"{file}: not JSON, empty or cut short; download it again") from None
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{file}: it must be an object with the number of each token; download it again")
    return content


def _check_merges(file: Path) -> None:
    """Check that each line of a merges.txt joins two tokens, which the vocabulary beside it has."""
    try:
        lines = read_whole(file).decode().split("\n")
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8 text; download it again") from None
    beside = file.with_name("vocab.json")
    is_compared = beside.is_file() and not file.with_name("tokenizer.json").is_file()
    tokens = _tokens(beside) if is_compared else {}
    for number, line in enumerate(lines, 1):
        pair = line.rstrip("\r").split(" ")
        if pair == [""] or line.startswith("#version"):
            continue
        if len(pair) != 2 or (is_compared and number <= COMPARED_LINES and "".join(pair) not in tokens):
            raise BadInput(f"{file}: line {number}: {shown(line, 40)} joins no two tokens; download the file again")


def _check_sentencepiece(file: Path) -> None:
    start = _start(file)
    if not start.startswith(SENTENCEPIECE) or len(start) < 16:
        raise BadInput(f"{file}: not a model of SentencePiece; download it again")


def _check_model(file: Path) -> None:
    """Check a tokenizer.model, which is of SentencePiece or of tiktoken."""
    if not TIKTOKEN.match(_start(file)):
        _check_sentencepiece(file)


def _start(file: Path) -> bytes:
    return read_whole(file)[:512]


CHECKS: Mapping[str, Callable[[Path], None]] = {
    "tokenizer.json": _check_tokenizer,
    "vocab.json": _check_tokens,
    "merges.txt": _check_merges,
    "spiece.model": _check_sentencepiece,
    "sentencepiece*.model": _check_sentencepiece,
    "tokenizer.model": _check_model,
}
