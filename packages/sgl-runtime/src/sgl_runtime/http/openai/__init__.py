# SPDX-License-Identifier: Apache-2.0
"""OpenAI's protocol: the bodies as structs, one file per family of endpoints."""
