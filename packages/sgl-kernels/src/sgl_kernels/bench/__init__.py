# SPDX-License-Identifier: Apache-2.0
"""What every operation costs on this GPU: `python -m sgl_kernels.bench`.

Beside it the floor, and what torch and FlashInfer take.
"""
