"""Records of the model and its workload."""

from __future__ import annotations

import msgspec

from tuner.records.codec import Record, Value, Values


class Workload(Record):
    """What the user will run. Sizes in pixels; prompts and seeds pair up one to one; `arguments` are further keywords
    of the call. What is absent is as the pipeline itself has it. With a latency target only the calls that take no
    longer count."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    arguments: Values = msgspec.field(default_factory=dict)
    latency_target_s: float | None = None


class Model(Record):
    """Which pipeline: a folder or a hub id pinned to a revision, and the class that its index names."""

    source: str
    revision: str | None
    pipeline_class: str
    scorer: str


DENOISERS = ("transformer", "transformer_2", "unet")
"""Names of the components that run once a step."""


class Denoiser(Record):
    """A component that runs once a step, and what its class can do, as its source says."""

    component: str
    class_name: str
    repeated_blocks: tuple[str, ...] = ()
    dispatches_attention: bool = False
    is_cacheable: bool = False
    fuses_qkv: bool = False
    registers_blocks: bool = False
    projects_out: bool = False


class Architecture(Record):
    """What kind of pipeline it is: its components (name to class), the parameters of its call with their defaults
    ("required" without one, null where that is no plain value), and its components' plain settings."""

    pipeline_class: str
    components: dict[str, str]
    denoisers: tuple[Denoiser, ...]
    arguments: dict[str, Value | None]
    settings: dict[str, Values]
    enters_cache_context: bool
