# SPDX-License-Identifier: Apache-2.0
"""Twenty prompts for comparing greedy text: short, long, Chinese, code, chat with an empty system prompt."""

from __future__ import annotations

_SENTENCES = (
    "The harbour was quiet before the storm came in from the west.",
    "Nobody in the village remembered who had built the old stone bridge.",
    "Every winter the river froze, and the children crossed it on foot.",
    "A letter arrived on Tuesday, written in a hand that she did not know.",
    "The mill had burned twice, and twice they had raised it again.",
)


def _long(seed: int) -> str:
    """About 2,000 tokens of plain prose, in an order of its own."""
    lines = [f"{n}. {_SENTENCES[(n * seed + n // 5) % 5]}" for n in range(1, 111)]
    return " ".join(lines) + f" In short, the {seed}th story is about"


def _chat(*turns: tuple[str, str]) -> str:
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return said + "<|im_start|>assistant\n"


PROMPTS: tuple[str, ...] = (
    "Hello",
    "The capital of France is",
    "Once upon a time",
    "1, 1, 2, 3, 5, 8,",
    "Q: What is the boiling point of water at sea level?\nA:",
    "The three laws of motion state that",
    "从前有一个",
    "法国的首都是",
    "请用中文介绍一下长城的历史。",
    "人工智能的未来发展方向包括:1.",
    "def fibonacci(n):\n    ",
    "import numpy as np\n\n\ndef softmax(x):\n    ",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i <",
    _chat(("system", ""), ("user", "What is gravity?")),
    _chat(("system", ""), ("user", "Write a haiku about the sea.")),
    _chat(("system", "You are a helpful assistant."), ("user", "List three fruits.")),
    _long(3),
    _long(7),
    _long(11),
)
