# SPDX-License-Identifier: Apache-2.0
"""What this library costs, beside others that do the same, on the same cases and the very same token bytes.

    python -m sgl_constrain.bench                    # all engines that are installed
    python -m sgl_constrain.bench --engines sgl      # this one alone
    python -m sgl_constrain.bench --jump-forward     # forced text as the tokenizer would have written it

Each engine runs in a process of its own, on one thread. Nothing here is imported by the library, and the
packages compared with are no dependencies: what is not installed is named and left out.
"""
