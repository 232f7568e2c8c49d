"""Records of the model and its workload."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from tuner.records.codec import Number, PositiveCount, Record, Value, Values

Prompt = Annotated[str, msgspec.Meta(pattern=r"\S")]
Prompts = Annotated[tuple[Prompt, ...], msgspec.Meta(min_length=1)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Pixels = Annotated[int, msgspec.Meta(ge=8, le=16384)]
TargetSeconds = Annotated[float, msgspec.Meta(gt=0, le=1e8)]


class Workload(Record):
    """What the user will run. Prompts and seeds pair up, sizes are in pixels. One `negative_prompt` is for all prompts.

    `arguments` are further keyword arguments of the pipeline's call. A field that is None keeps the pipeline's default.
    With a latency target, only the calls within it count.
    """

    prompts: Prompts
    seeds: tuple[Seed, ...]
    height: Pixels | None = None
    width: Pixels | None = None
    num_frames: PositiveCount | None = None
    guidance_scale: Number | None = None
    max_sequence_length: PositiveCount | None = None
    negative_prompt: str | None = None
    arguments: Values = msgspec.field(default_factory=dict)
    latency_target_s: TargetSeconds | None = None

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.prompts):
            raise ValueError(f"seeds: {len(self.seeds)} seeds for {len(self.prompts)} prompts, give one per prompt")
        require_finite(guidance_scale=self.guidance_scale, latency_target_s=self.latency_target_s)

    def first(self, count: int) -> Workload:
        """Return the workload with its first `count` prompts only."""
        return msgspec.structs.replace(self, prompts=self.prompts[:count], seeds=self.seeds[:count])


def require_finite(**fields: float | None) -> None:
    """Check that no field is infinite or NaN, which YAML can write. Raises ValueError with the field."""
    for name, value in fields.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not a finite number")


class Model(Record):
    """Which pipeline: a folder, or a hub id pinned to a revision, and the class that its index names.

    `variant` selects among the weights of each component, as `fp16`. If `source` is a checkpoint file, `base` is the
    folder or hub id of the pipeline that has its configuration and the components that it lacks, and `revision` is the
    base's.
    """

    source: str
    revision: str | None
    pipeline_class: str
    scorer: str
    variant: str | None = None
    base: str | None = None


DENOISERS = ("transformer", "transformer_2", "unet")
"""Names of the components that run once per step."""


class Denoiser(Record):
    """A component that runs once per step, and what its class supports according to its source."""

    component: str
    class_name: str
    repeated_blocks: tuple[str, ...] = ()
    dispatches_attention: bool = False
    is_cacheable: bool = False
    fuses_qkv: bool = False
    registers_blocks: bool = False
    projects_out: bool = False


class Architecture(Record):
    """The architecture of a pipeline.

    `components` maps names to classes. `arguments` maps the parameters of the call to their defaults: "required" if
    there is none, None if it is not a plain value. `settings` are the components' plain settings.
    """

    pipeline_class: str
    components: dict[str, str]
    denoisers: tuple[Denoiser, ...]
    arguments: dict[str, Value | None]
    settings: dict[str, Values]
    enters_cache_context: bool
