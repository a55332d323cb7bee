# SPDX-License-Identifier: Apache-2.0
"""The client of the replicas: what users ask becomes messages, what replicas answer becomes text. No HTTP, no
torch.
"""
