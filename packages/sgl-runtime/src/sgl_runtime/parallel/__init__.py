# SPDX-License-Identifier: Apache-2.0
"""How the ranks of one replica share each layer: who holds which slice, and how they exchange values.

Knows torch.distributed; knows no layer, no model and no request.
"""
