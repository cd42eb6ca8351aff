"""The table of the providers in this package: a module and a line here add one."""

from __future__ import annotations

from importlib import import_module

from lightning_bench.providers.registry.base import Provider

BUILT_IN: dict[str, str] = {
    "lightning2": "bundled_lightning2:Lightning2",
    "lightning2-torch": "bundled_lightning2:Lightning2Torch",
    "context-parallel": "bundled_lightning2:Lightning2OnRanks",
    "context-parallel-torch": "bundled_lightning2:Lightning2TorchOnRanks",
    "lightning1": "bundled_lightning1:Lightning1",
    "lightning-official": "lightning_attn:LightningOfficial",
    "fla-chunk": "fla:FlaChunk",
    "fla-fused-chunk": "fla:FlaFusedChunk",
    "fla-recurrent": "fla:FlaRecurrent",
    "lightning2-no-decay": "bundled_lightning2:Lightning2NoDecay",
    "lightning2-no-decay-torch": "bundled_lightning2:Lightning2TorchNoDecay",
    "lightning1-no-decay": "bundled_lightning1:Lightning1NoDecay",
    "lightning-official-no-decay": "lightning_attn:LightningOfficialNoDecay",
    "flash2": "flash2:Flash2",
    "flash4": "flash4:Flash4",
    "xformers": "xformers:XformersCutlass",
    "xformers-auto": "xformers:XformersAuto",
    "sdpa-flash": "sdpa:SdpaFlash",
    "sdpa-cudnn": "sdpa:SdpaCudnn",
    "sdpa-efficient": "sdpa:SdpaEfficient",
    "sdpa-math": "sdpa:SdpaMath",
    "flash2-full": "flash2:Flash2Full",
    "sdpa-math-full": "sdpa:SdpaMathFull",
    "lightning2-retention": "bundled_lightning2:Lightning2Retention",
    "fla-retention-parallel": "fla_systems:RetentionParallel",
    "fla-retention-recurrent": "fla_systems:RetentionRecurrent",
    "fla-retention-chunk": "fla_systems:RetentionChunk",
    "fla-retention-fused-chunk": "fla_systems:RetentionFusedChunk",
    "retention-torch": "forms.retention_torch:RetentionTorch",
    "fla-gla-recurrent": "fla_systems:GlaRecurrent",
    "fla-gla-chunk": "fla_systems:GlaChunk",
    "fla-gla-fused-chunk": "fla_systems:GlaFusedChunk",
    "gla-torch": "forms.gla_torch:GlaTorch",
    "fla-based-parallel": "fla_systems:BasedParallel",
    "fla-based-fused-chunk": "fla_systems:BasedFusedChunk",
    "based-torch": "forms.based_torch:BasedTorch",
    "fla-rwkv6-recurrent": "fla_systems:Rwkv6Recurrent",
    "fla-rwkv6-chunk": "fla_systems:Rwkv6Chunk",
    "rwkv6-torch": "forms.rwkv6_torch:Rwkv6Torch",
    "fla-abc-chunk": "fla_systems:AbcChunk",
    "abc-torch": "forms.abc_torch:AbcTorch",
    "fla-mamba2-chunk": "fla_systems:Mamba2Chunk",
    "mamba2-torch": "forms.mamba2_torch:Mamba2Torch",
    "fla-gated-delta-chunk": "fla_systems:GatedDeltaChunk",
    "gated-delta-torch": "forms.gated_delta_torch:GatedDeltaTorch",
    "fla-kda-chunk": "fla_systems:KdaChunk",
    "kda-torch": "forms.kda_torch:KdaTorch",
    "gateloop": "bundled_gateloop:GateLoopTriton",
    "gateloop-torch": "bundled_gateloop:GateLoopTorch",
    "gateloop-complex": "bundled_gateloop:GateLoopComplexTriton",
    "gateloop-complex-torch": "bundled_gateloop:GateLoopComplexTorch",
    "vq-blockwise": "forms.transformer_vq:VqBlockwise",
    "vq-sdpa": "forms.transformer_vq:VqSdpa",
    "transnormer-layer": "bundled_transnormer:TransNormerLayer",
    "transnormer-layer-torch": "bundled_transnormer:TransNormerLayerTorch",
    "srmsnorm": "bundled_srmsnorm:Srmsnorm",
    "srmsnorm-eager": "bundled_srmsnorm:SrmsnormEager",
    "srmsnorm-compiled": "bundled_srmsnorm:SrmsnormCompiled",
    "srmsnorm-official": "lightning_attn:SrmsnormOfficial",
    "rms-norm-torch": "forms.rms_norm_torch:RmsNormTorch",
    "lightning2-serve": "bundled_serving:Lightning2Serve",
    "lightning2-step": "bundled_serving:Lightning2Step",
    "lightning2-state": "bundled_serving:Lightning2State",
    "lightning2-serve-torch": "bundled_serving:Lightning2ServeTorch",
    "lightning2-serve-bitwise": "bundled_serving:Lightning2ServeBitwise",
    "sglang-seg-la": "served_engines:SglangSegLa",
    "sglang-minimax": "served_engines:SglangMinimax",
    "vllm-lightning": "served_engines:VllmLightning",
    "mamba-ssm-step": "served_mamba:MambaStep",
    "mamba-ssm-chunk": "served_mamba:MambaChunk",
    "flashinfer-decode": "served_mamba:FlashinferStep",
    "fla-recurrent-serve": "served_fla:FlaRecurrentServe",
    "fla-chunk-serve": "served_fla:FlaChunkServe",
    "transformers-minimax": "served_transformers:TransformersMinimax",
    "lightning2-verify": "bundled_serving:Lightning2Verify",
    "lightning2-verify-torch": "bundled_serving:Lightning2VerifyTorch",
    "sglang-seg-la-verify": "served_engines:SglangSegLaVerify",
}
"""Name of each provider to `module:Class` below this package, in the order of listings: family by family."""


def built_in_provider(name: str) -> Provider:
    """Return the provider of a name in `BUILT_IN`; imports its module, but not the library that it wraps."""
    module, _, attribute = BUILT_IN[name].partition(":")
    provider: Provider = getattr(import_module(f"lightning_bench.providers.{module}"), attribute)()
    return provider


def tunes_itself(name: str) -> bool:
    """Return whether this is a built-in provider whose autotuner may choose anew in each process."""
    return name in BUILT_IN and built_in_provider(name).self_tuning
