"""Effects of compiling, of graphs, and of the compiler's flags.

What remains of a part was measured on FLUX.1-dev and SDXL at their real size on an H200 (docs/knobs_h200.md).
"""

from __future__ import annotations

from tuner.advisor.call import (
    ATTENTION,
    CONVOLUTIONS,
    COPIES,
    ELEMENTWISE,
    HOST,
    IDLE,
    PRODUCTS,
    REST,
    TEXT,
    VAE,
    WORK,
    Call,
    Change,
)
from tuner.advisor.effects import Effect, EffectOf, Facts, change, fixed, of_each, percent
from tuner.advisor.products import to_peak
from tuner.records.codec import Value

FUSED = {"regional": (0.45, 0.35, 0.62), "full": (0.42, 0.32, 0.6)}
FUSED_ON_CPU = (0.6, 0.4, 1.1)
"""What fusing leaves of element-wise work: the factor and its interval."""


LAUNCHES = {"regional": (0.6, 0.3, 0.8), "full": (0.15, 0.05, 0.35)}
"""What remains of the host's time: around compiled blocks Python still runs."""


def covered(call: Call) -> float:
    """Return the share of the element-wise work that lies in repeated blocks: those have no convolutions."""
    blocks = call.parts[PRODUCTS] + call.parts[ATTENTION]
    return blocks / max(blocks + call.parts[CONVOLUTIONS], 1e-12)


def scope(value: Value, facts: Facts) -> Effect:
    """Return the effect of compiling the denoiser: fused element-wise work, and fewer launches."""
    fused = FUSED[str(value)] if facts.on_gpu else FUSED_ON_CPU
    share = covered(facts.call) if value == "regional" else 1.0

    def within(factor: float) -> float:
        return 1 - share * (1 - factor)

    changes = [
        change(ELEMENTWISE, *of_each(within, fused), least=1 - share),
        change(COPIES, *of_each(within, (0.5, 0.2, 1.0)), least=1 - share),
        change(IDLE, 0.6, 0.2, 1.3, least=0.0),
        change(HOST, *of_each(within, LAUNCHES[str(value)]), least=0.0),
    ]
    if value == "full":
        changes.append(change(CONVOLUTIONS, 0.9, 0.75, 1.05, least=0.6))
    where = "in the blocks " if value == "regional" and share < 0.98 else ""
    return Effect(
        f"fusing leaves about {percent(fused[0])} of the element-wise work {where}and fewer launches", tuple(changes)
    )


def backend(value: Value, facts: Facts) -> Effect:
    """Return the effect of TensorRT, which fuses further and chooses its own kernels."""
    changes = (
        to_peak(facts, 0.97, 0.85, 1.05), change(ELEMENTWISE, 0.9, 0.6, 1.4, least=0.2),
        change(IDLE, 0.7, 0.2, 1.2, least=0.0), change(HOST, 0.4, 0.05, 1.0, least=0.0),
        change(CONVOLUTIONS, 0.95, 0.7, 1.1, least=0.5),
    )  # fmt: skip
    return Effect("TensorRT fuses further; it was not measured on these models", changes)


HOST_IS_NEAR = 0.8
"""Where launching takes this share of the device's work, most gaps are waits for the host, which graphs take out."""


def graphs(facts: Facts) -> tuple[Change, ...]:
    """Return the changes that replaying a CUDA graph makes: one launch a step."""
    call = facts.call
    is_near = call.host_s >= HOST_IS_NEAR * sum(call.parts[part] for part in WORK)
    idle = (0.15, 0.0, 1.0) if is_near else (0.6, 0.2, 1.4)
    return change(IDLE, *idle, least=0.0), change(HOST, 0.03, 0.0, 0.1, least=0.0)


def denoiser_graph(value: Value, facts: Facts) -> Effect:
    """Return the effect of capturing the denoiser in a CUDA graph."""
    return Effect("a replayed graph has one launch a step and copies its outputs", graphs(facts))


def mode(value: Value, facts: Facts) -> Effect:
    """Return the effect of CUDA graphs, and of autotuning, which times kernels for products."""
    autotuned = (to_peak(facts, 0.995, 0.94, 1.02), change(ELEMENTWISE, 0.98, 0.92, 1.02, least=0.7))
    table = {
        "reduce-overhead": Effect("a replayed graph has one launch a step and copies its outputs", graphs(facts)),
        "max-autotune-no-cudagraphs": Effect("Triton's kernels seldom beat cuBLAS's", autotuned),
        "max-autotune": Effect("one launch a step, kernels picked by timing", graphs(facts) + autotuned),
    }
    return table[str(value)]


def compile_vae(value: Value, facts: Facts) -> Effect:
    """Return the effect of compiling the VAE: on a GPU less than half of an image's decoding remains."""
    if not facts.on_gpu or facts.workload.num_frames is not None:
        return Effect("fusing saves some of decoding", (change(VAE, 0.75, 0.4, 1.1, least=0.25),))
    return Effect("fusing left 41 % of decoding on an H200", (change(VAE, 0.41, 0.36, 0.75, least=0.25),))


def conv_1x1(value: Value, facts: Facts) -> Effect:
    """Return the effect of 1x1 convolutions as products, in the VAE and in a compiled denoiser."""
    changes = [change(VAE, 0.99, 0.93, 1.06, least=0.85)]
    if facts.values.get("compile.scope", "none") != "none":
        changes.append(change(CONVOLUTIONS, 0.99, 0.93, 1.06, least=0.85))
    return Effect("1x1 convolutions are few, and cuDNN's are about as fast as products", tuple(changes))


def channels_last(value: Value, facts: Facts) -> Effect:
    """Return the effect of the layout that tensor cores read: inductor chooses it by itself."""
    if facts.values.get("compile.scope", "none") != "none":
        return Effect(
            "the compiler chooses the layout of convolutions itself", (change(CONVOLUTIONS, 1.0, 0.93, 1.06),)
        )
    why = "without it cuDNN lays each convolution's input and output out anew"
    return Effect(why, (change(CONVOLUTIONS, 0.85, 0.6, 1.1, least=0.4), change(COPIES, 1.0, 0.5, 1.1, least=0.2)))


def autotuned_products(why: str, factor: float, low: float, high: float) -> EffectOf:
    """Return the effect of a flag of how autotuning chooses kernels for products."""
    return lambda value, facts: Effect(why, (to_peak(facts, factor, low, high),))


def gemm_backends(value: Value, facts: Facts) -> Effect:
    """Return the effect of fewer kernels to choose from: never faster, but for an unlucky choice."""
    whose, numbers = ("cuBLAS", (1.0, 0.97, 1.04)) if value == "ATEN" else ("Triton", (1.18, 1.0, 1.3))
    return Effect(f"only {whose}'s kernels for products are tried", (change(PRODUCTS, *numbers, least=0.96),))


COMPILING: dict[str, EffectOf] = {
    "compile.scope": scope,
    "compile.backend": backend,
    "compile.mode": mode,
    "compile.dynamic": fixed({
        True: Effect(
            "code for any size is about as fast",
            (change(ELEMENTWISE, 1.03, 0.96, 1.15), change(HOST, 1.05, 1.0, 1.3)),
            also="one compile for prompts of any length",
        ),
    }),
    "compile.text_encoders": fixed({
        True: Effect("fusing leaves about half of an encoder's time", (change(TEXT, 0.5, 0.38, 0.95, least=0.25),)),
    }),
    "compile.vae": compile_vae,
    "graphs.scheduler_step": fixed({
        True: Effect("the scheduler's arithmetic joins the graph", (change(REST, 0.97, 0.8, 1.02, least=0.5),)),
    }),
    "graphs.denoiser": denoiser_graph,
    "inductor.epilogue_fusion": fixed({
        False: Effect("what follows a product gets its own kernel", (change(ELEMENTWISE, 1.04, 1.0, 1.15, least=1.0),)),
    }),
    "inductor.persistent_tma_matmul": autotuned_products("one more sort of kernels is tried", 0.995, 0.93, 1.03),
    "inductor.max_autotune_gemm_backends": gemm_backends,
    "inductor.coordinate_descent_tuning": fixed({
        True: Effect("kernels' launch parameters are searched", (change(ELEMENTWISE, 0.94, 0.85, 1.02, least=0.75),)),
    }),
    "inductor.coordinate_descent_check_all_directions": fixed({
        True: Effect("more launch parameters are searched", (change(ELEMENTWISE, 0.985, 0.94, 1.02, least=0.85),)),
    }),
    "inductor.aggressive_fusion": fixed({
        True: Effect("work that shares no data is fused, too", (change(ELEMENTWISE, 1.0, 0.93, 1.06, least=0.8),)),
    }),
    "inductor.emulate_precision_casts": fixed({
        True: Effect(
            "it rounds more often", (change(ELEMENTWISE, 1.01, 1.0, 1.06, least=1.0),),
            also="images nearer to the baseline's",
        ),
    }),
    "inductor.conv_1x1_as_mm": conv_1x1,
    "inductor.freezing": fixed({
        True: Effect(
            "weights are packed for the kernels that read them",
            (change(PRODUCTS, 0.9, 0.7, 1.05, least=0.5), change(CONVOLUTIONS, 0.9, 0.7, 1.05, least=0.5)),
        ),
    }),
    "denoiser.channels_last": channels_last,
    "cudnn.benchmark": fixed({
        True: Effect(
            "cuDNN's first choice of a convolution is mostly the fastest",
            (change(CONVOLUTIONS, 0.98, 0.9, 1.03, least=0.7), change(VAE, 0.995, 0.93, 1.03, least=0.7)),
        ),
    }),
}  # fmt: skip
"""The effects of every knob that has to do with the compiler."""
