# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts against the blocks of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgl_kernels import fused_experts, route, with_shared_experts

TOKENS, WIDTH, INNER = 37, 24, 20


def filled(block: nn.Module) -> Any:
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            tensor.copy_(torch.randn_like(tensor) * 0.5)
    return block


def test_mixtral() -> None:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_local_experts=6, num_experts_per_tok=2
    )
    block = filled(MixtralSparseMoeBlock(config))
    x = torch.randn(TOKENS, WIDTH)
    weights, experts = route(x @ block.gate.weight.T, 2)
    ours = fused_experts(x, block.experts.gate_up_proj, block.experts.down_proj, weights, experts)
    torch.testing.assert_close(ours, block(x[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("renormalise", [False, True])
def test_qwen2_moe_has_a_gated_shared_expert(renormalise: bool) -> None:
    from transformers import Qwen2MoeConfig
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    config = Qwen2MoeConfig(
        hidden_size=WIDTH, moe_intermediate_size=INNER, shared_expert_intermediate_size=2 * INNER,
        num_experts=7, num_experts_per_tok=3, norm_topk_prob=renormalise,
    )  # fmt: skip
    block = filled(Qwen2MoeSparseMoeBlock(config))
    x = torch.randn(TOKENS, WIDTH)
    weights, experts = route(x @ block.gate.weight.T, 3, renormalise=renormalise)
    gate = (x @ block.shared_expert_gate.weight.T).sigmoid().squeeze(1)
    weights, experts = with_shared_experts(weights, experts, 7, 2, gate)
    gate_up, down = with_halves(block.experts, block.shared_expert)
    ours = fused_experts(x, gate_up, down, weights, experts)
    torch.testing.assert_close(ours, block(x[None])[0], rtol=1e-4, atol=1e-5)


def with_halves(experts: Any, shared: Any) -> tuple[Tensor, Tensor]:
    """The experts, and a shared one of twice their width as two of them."""
    gate, up = shared.gate_proj.weight.chunk(2), shared.up_proj.weight.chunk(2)
    halves = torch.stack([torch.cat(pair) for pair in zip(gate, up, strict=True)])
    down = torch.stack(shared.down_proj.weight.chunk(2, 1))
    return torch.cat([experts.gate_up_proj, halves]), torch.cat([experts.down_proj, down])


@pytest.mark.parametrize(("groups", "kept"), [(4, 2), (4, 1), (1, 1)])
def test_deepseek_v3_has_groups_and_a_bias(groups: int, kept: int) -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = DeepseekV3Config(
        hidden_size=WIDTH, moe_intermediate_size=INNER, n_routed_experts=16, n_shared_experts=2,
        num_experts_per_tok=3, n_group=groups, topk_group=kept, routed_scaling_factor=2.5,
        norm_topk_prob=True,
    )  # fmt: skip
    block = filled(DeepseekV3MoE(config))
    x = torch.randn(TOKENS, WIDTH)
    weights, experts = route(
        x @ block.gate.weight.T, 3, scoring="sigmoid", bias=block.gate.e_score_correction_bias,
        groups=groups, kept_groups=kept, scale=2.5,
    )  # fmt: skip
    weights, experts = with_shared_experts(weights, experts, 16, 2)
    ours = fused_experts(x, *with_halves(block.experts, block.shared_experts), weights, experts)
    torch.testing.assert_close(ours, block(x[None])[0], rtol=1e-4, atol=1e-5)


def test_groups_without_a_bias_are_as_good_as_their_best() -> None:
    logits = torch.tensor([[5.0, -9.0, 4.0, 4.0, 0.0, 0.0]])
    weights, experts = route(logits, 2, groups=3, kept_groups=1)
    assert experts.tolist() == [[0, 1]]
    assert weights[0, 0] > 0.99
    assert route(logits, 2, groups=3, kept_groups=2)[1][0].tolist() in ([0, 2], [0, 3])


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_float64(activation: Any, dtype: torch.dtype) -> None:
    x = torch.randn(TOKENS, WIDTH).to(dtype)
    gate_up, down = torch.randn(5, 2 * INNER, WIDTH).to(dtype), torch.randn(5, WIDTH, INNER).to(dtype)
    experts = torch.randint(-1, 6, (TOKENS, 3))  # -1 and 5 are elsewhere
    weights = torch.rand(TOKENS, 3)
    act = {"silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh")}[activation]
    expected = torch.zeros(TOKENS, WIDTH, dtype=torch.float64)
    for t, k in torch.cartesian_prod(torch.arange(TOKENS), torch.arange(3)).tolist():
        e = int(experts[t, k])
        if 0 <= e < 5:
            gate, up = (gate_up[e].double() @ x[t].double()).chunk(2)
            expected[t] += weights[t, k].double() * (down[e].double() @ (act(gate) * up))
    ours = fused_experts(x, gate_up, down, weights, experts, activation=activation).double()
    assert (ours - expected).norm() < (1e-5 if dtype == torch.float32 else 1e-2) * expected.norm()


def test_it_compiles_to_one_graph() -> None:
    x, gate_up, down = torch.randn(5, 8), torch.randn(4, 12, 8), torch.randn(4, 8, 6)

    def block(x: Tensor) -> Tensor:
        weights, experts = route(x[:, :4], 2)
        return fused_experts(x, gate_up, down, weights, experts)

    compiled = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), block(x))


X, GATE_UP, DOWN = torch.randn(3, 8), torch.randn(4, 12, 8), torch.randn(4, 8, 6)
WEIGHTS, EXPERTS = torch.rand(3, 2), torch.zeros(3, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("x", X.int()),
        ("gate_up", GATE_UP[:, :, :7]),
        ("gate_up", GATE_UP[:, :11]),
        ("down", DOWN[:3]),
        ("down", DOWN.mT.contiguous()),
        ("weights", WEIGHTS[:2]),
        ("weights", WEIGHTS.double()),
        ("experts", EXPERTS[:, :1]),
        ("experts", EXPERTS.float()),
        ("activation", "relu"),
    ],
)
def test_what_is_refused(name: str, bad: Any) -> None:
    arguments = {"x": X, "gate_up": GATE_UP, "down": DOWN, "weights": WEIGHTS, "experts": EXPERTS} | {
        name: bad
    }
    with pytest.raises(ValueError, match=f"^{name}: "):
        fused_experts(**arguments)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("top_k", 0),
        ("top_k", 5),
        ("groups", 3),
        ("kept_groups", 3),
        ("scoring", "none"),
        ("bias", torch.ones(3)),
    ],
)
def test_what_a_router_refuses(name: str, bad: Any) -> None:
    arguments: dict[str, Any] = {"top_k": 2, "groups": 2, "kept_groups": 1} | {name: bad}
    with pytest.raises(ValueError, match=f"^{name}: "):
        route(torch.randn(3, 8), **arguments)
