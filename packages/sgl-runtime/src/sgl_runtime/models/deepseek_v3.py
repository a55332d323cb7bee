# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V3 and R1: DeepSeek V2 whose experts are scored by a sigmoid and chosen with a bias of their own.

The layers that predict further tokens, which follow the others in a checkpoint, are left unread. Published
in float8, which is refused as what `quantization_config` says; the bfloat16 conversions are served.
"""

from __future__ import annotations

from sgl_runtime.layers import Build, Router
from sgl_runtime.models import deepseek, deepseek_v2


class DeepseekV3ForCausalLM(deepseek_v2.DeepseekV2ForCausalLM):
    def __init__(self, build: Build) -> None:
        super().__init__(build)
        first, more = build.config.layers, build.config.own.count("num_nextn_predict_layers", 0)
        self.skip_under = tuple(f"model.layers.{layer}." for layer in range(first, first + more))

    def router(self, build: Build) -> Router:
        c, own = build.config, build.config.own
        deepseek.require(build, "scoring_func", "sigmoid", default="sigmoid")
        deepseek.require(build, "topk_method", "noaux_tc", default="noaux_tc")
        return Router(
            build,
            c.hidden_size,
            own.integer("n_routed_experts"),
            own.integer("num_experts_per_tok"),
            precise=True,
            biased=True,
            scoring="sigmoid",
            renormalise=deepseek.renormalises(build),
            scale=own.number("routed_scaling_factor", 1.0),
            groups=own.integer("n_group", 1),
            kept_groups=own.integer("topk_group", 1),
        )


TINY = deepseek_v2.TINY | {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
}
