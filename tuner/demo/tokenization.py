"""The two tokenizers of the pipeline over the captions' few words: one token a word, letters for the rest."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from string import ascii_lowercase, digits

from transformers import CLIPTokenizer, T5Tokenizer

from tuner.demo.captions import WORDS

LENGTH = 32  # tokens, of both tokenizers


def clip_tokenizer() -> CLIPTokenizer:
    """Make a byte-pair tokenizer whose merges build each caption word."""
    letters = ascii_lowercase + digits + ",."
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = _merges(WORDS)
    tokens += sorted({left + right for left, right in merges})
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """Make a unigram tokenizer in which a whole word is always likelier than its letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces = [("\u2581" + word, -4.0) for word in WORDS]
    letters = [(letter, -10.0) for letter in ascii_lowercase + digits + ",."]
    return T5Tokenizer(vocab=special + pieces + letters, extra_ids=0, model_max_length=LENGTH)


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, the commonest pair first, until every word is one token."""
    splits = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for split in splits for pair in pairwise(split)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        splits = [_merge(split, best) for split in splits]
    return merges


def _merge(split: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in split:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
