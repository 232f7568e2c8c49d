"""A configuration on several devices in production: loaded by processes that torchrun starts, here two on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from exports import choosing, of_tiny, written

import tuner
from tuner.errors import Unavailable
from tuner.export.base import read_tuned
from tuner.export.python import Python
from tuner.records.codec import Values

TWO: Values = {"parallel.degree": 2}
CASES: dict[str, tuple[str, Values, int]] = {
    "flux": ("flux", {"parallel.kind": "ulysses"}, 16),
    "uneven": ("flux", {"parallel.kind": "ulysses-anything"}, 15),
    "wan22": ("wan22", {"parallel.kind": "ulysses"}, 16),
}
"""A family, how it is split, and the tokens of its prompts. Wan 2.2 has two denoisers."""

ROUNDING = 1e-4

RANK = """
import os, runpy, sys, warnings
import numpy, torch
import tuner
warnings.simplefilter("ignore")

def draw(pipe, arguments, target):
    output = pipe(["a red ball"], generator=[torch.Generator().manual_seed(0)], output_type="np", **arguments)
    images = output.images if hasattr(output, "images") else output.frames
    if os.environ["RANK"] == "0":
        numpy.save(target, images)

for config in sys.argv[2:]:
    tuned = tuner.load(config)
    draw(tuned.pipe, tuned.call.arguments, config + ".npy")
found = runpy.run_path(sys.argv[1])
draw(found["load"](), found["ARGUMENTS"], sys.argv[1] + ".npy")
"""


def config_of(folder: Path, pipeline: Path, different: Values, tokens: int, frames: int | None) -> Path:
    best = of_tiny(pipeline, different)
    has_tokens = best.workload.max_sequence_length is not None
    workload = msgspec.structs.replace(
        best.workload, num_frames=frames, max_sequence_length=tokens if has_tokens else None, negative_prompt=None
    )
    return written(folder, msgspec.structs.replace(best, workload=workload))


def drawn_alone(config: Path) -> Any:
    import torch

    tuned = tuner.load(config)
    generator = [torch.Generator().manual_seed(0)]
    output = tuned.pipe(["a red ball"], generator=generator, output_type="np", **tuned.call.arguments)
    return output.images if hasattr(output, "images") else np.asarray(output.frames)


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/faults/test_ranks.py has the same calls in ranks of its own each time
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("process_state")
def test_ranks_of_torchrun_draw_what_one_process_draws(pipeline_folder: Callable[[str], Path], tmp_path: Path) -> None:
    configs, expected = [], []
    for family, different, tokens in CASES.values():
        place, frames = pipeline_folder(family), 5 if family.startswith("wan") else None
        configs.append(str(config_of(tmp_path, place, {**TWO, **different}, tokens, frames)))
        expected.append(drawn_alone(config_of(tmp_path, place, {}, tokens, frames)))
    exported, program = tmp_path / "tuned.py", tmp_path / "rank.py"
    exported.write_text(Python().render(read_tuned(Path(configs[0]))))
    program.write_text(RANK)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, str(program), str(exported), *configs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    for file, images in zip((*configs, str(exported)), (*expected, expected[0]), strict=True):
        assert images.std() > 0.01, "it shows something"
        assert np.abs(np.load(f"{file}.npy") - images).max() < ROUNDING, file


def test_one_process_is_told_how_to_start_the_others(tiny_pipeline: Path, tmp_path: Path) -> None:
    config = written(tmp_path, of_tiny(tiny_pipeline, {**TWO, "parallel.kind": "ulysses"}))
    with pytest.raises(Unavailable, match=rf"{config}: .* needs 2 processes.*torchrun --nproc-per-node 2$"):
        tuner.load(config)


def test_an_exported_file_says_how_it_is_started() -> None:
    text = Python().render(choosing({**TWO, "parallel.kind": "ulysses"}))
    assert "# Start with: torchrun --nproc-per-node 2 FILE\n" in text
    loading = text[text.index("def load(") :]
    order = [loading.index(each) for each in ("join_ranks(2)", "from_pretrained", "split_over_devices(denoiser")]
    assert order == sorted(order)
