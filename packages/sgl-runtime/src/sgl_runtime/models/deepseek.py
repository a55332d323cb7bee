# SPDX-License-Identifier: Apache-2.0
"""DeepSeek MoE, the first: Llama whose MLP is, after the first layers, a mixture of many small experts and
some that every token goes to."""

from __future__ import annotations

from torch import nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, MoE, Router
from sgl_runtime.models import llama
from sgl_runtime.models.base import packed_experts


class DeepseekForCausalLM(llama.LlamaForCausalLM):
    def __init__(self, build: Build) -> None:
        super().__init__(build)
        own = build.config.own
        if own.has("n_routed_experts"):
            self.packed = self.packed | packed_experts(  # type: ignore[misc]  # of this model's numbers
                own.integer("n_routed_experts"),
                *(f"experts.{{}}.{name}_proj" for name in ("gate", "up", "down")),
                shared=own.count("n_shared_experts", 0),
                shared_name="shared_experts",
            )

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c, own = build.config, build.config.own
        dense = layer < own.count("first_k_dense_replace", 0) or layer % own.integer("moe_layer_freq", 1)
        if dense or not own.has("n_routed_experts"):
            return super().mlp(build, layer)
        return MoE(
            build,
            self.router(build),
            c.hidden_size,
            own.integer("n_routed_experts"),
            own.integer("moe_intermediate_size"),
            c.hidden_act,
            shared=own.count("n_shared_experts", 0),
        )

    def router(self, build: Build) -> Router:
        c, own = build.config, build.config.own
        require(build, "scoring_func", "softmax", default="softmax")
        experts, top_k = own.integer("n_routed_experts"), own.integer("num_experts_per_tok")
        return Router(build, c.hidden_size, experts, top_k, renormalise=renormalises(build))


def renormalises(build: Build) -> bool:
    """Whether the weights of a token's experts are divided by their sum: one alone keeps its own."""
    own = build.config.own
    return own.boolean("norm_topk_prob", False) and own.integer("num_experts_per_tok") > 1


def require(build: Build, field: str, *served: str, default: str) -> str:
    """The value of a field. Raises ConfigError, naming it, if it is none of those that are served."""
    value = build.config.own.string(field, default)
    if value not in served:
        raise ConfigError(
            f"config.json: {field} must be {' or '.join(served)} to be served, not {value!r}", param=field
        )
    return value


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "deepseek",
    "architectures": ["DeepseekForCausalLM"],
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 15,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
}
