"""Timesteps in a denoiser that is compiled whole: rounded as in eager code, by the real compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drawing import load

from tuner.knobs import KNOBS
from tuner.knobs.timesteps import round_timesteps


def embedder() -> Any:
    """What FLUX.1 does with its timestep and guidance: in bfloat16, times 1000, and then its sine."""
    import torch
    from diffusers.models.embeddings import CombinedTimestepGuidanceTextProjEmbeddings

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time_text_embed = CombinedTimestepGuidanceTextProjEmbeddings(64, 32)

        def forward(self, timestep: Any, guidance: Any, pooled: Any) -> Any:
            return self.time_text_embed(timestep * 1000, guidance * 1000, pooled)

    torch.manual_seed(0)
    return Embedder().to(torch.bfloat16).eval()


@pytest.mark.parametrize("is_rounded", [True, False])
def test_inductor_embeds_what_eager_code_does(is_rounded: bool) -> None:
    import torch

    torch._dynamo.reset()
    model = embedder()
    pooled = torch.ones(1, 32, dtype=torch.bfloat16)
    given = [
        (torch.tensor([timestep]).bfloat16(), torch.tensor([3.7]).bfloat16(), pooled)
        for timestep in (0.973, 0.91, 0.33)
    ]
    with torch.no_grad():
        untouched = [model(*each) for each in given]
        if is_rounded:
            round_timesteps(model)
        model.compile(fullgraph=True)
        compiled = [model(*each) for each in given]
    errors = [float((a - b).float().norm() / a.float().norm()) for a, b in zip(untouched, compiled, strict=True)]
    assert max(errors) < 0.02 if is_rounded else min(errors) > 0.1, errors


@pytest.mark.parametrize(("scope", "hooks"), [("full", 1), ("regional", 0)])
def test_only_a_denoiser_that_is_compiled_whole_needs_it(scope: str, hooks: int, tiny_pipeline: Path) -> None:
    pipe = load(tiny_pipeline)
    KNOBS["compile.scope"].apply(pipe, {"compile.scope": scope})
    found = [module for module in pipe.transformer.modules() if type(module).__name__ == "Timesteps"]
    assert sum(len(module._forward_pre_hooks) for module in found) == hooks
