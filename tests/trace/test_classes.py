"""What kind of work a kernel is, by names that real traces have."""

from __future__ import annotations

import pytest

from tuner.trace import classes


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT", classes.GEMM),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", classes.GEMM),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>", classes.GEMM),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", classes.GEMM),
        ("void gemv2T_kernel_val<int, int, float>", classes.GEMM),
        ("Cijk_Alik_Bljk_BBS_BH_MT128x128x32", classes.GEMM),
        ("triton_tem_fused_addmm_3", classes.GEMM),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", classes.ATTENTION),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", classes.ATTENTION),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", classes.ATTENTION),
        ("triton_flex_attention", classes.ATTENTION),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_nhwc", classes.CONVOLUTION),
        ("void cudnn::winograd_nonfused::winogradForwardData4x4", classes.CONVOLUTION),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>", classes.ELEMENTWISE),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", classes.ELEMENTWISE),
        ("triton_poi_fused_addmm_gelu_3", classes.ELEMENTWISE),
        ("triton_red_fused_convolution_native_group_norm_1", classes.ELEMENTWISE),
        ("Memcpy DtoH (Device -> Pinned)", classes.COPY),
        ("Memset (Device)", classes.COPY),
    ],
)
def test_kernels(name: str, kind: str) -> None:
    assert classes.classify_kernel(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", classes.GEMM),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", classes.ATTENTION),
        ("aten::mkldnn_convolution", classes.CONVOLUTION),
        ("aten::mul", classes.ELEMENTWISE),
        ("aten::copy_", classes.COPY),
        ("## Call CompiledFxGraph fabc ##", classes.ELEMENTWISE),
        ("TorchDynamo Cache Lookup", classes.OVERHEAD),
    ],
)
def test_operators(name: str, kind: str) -> None:
    assert classes.classify_operator(name) == kind
