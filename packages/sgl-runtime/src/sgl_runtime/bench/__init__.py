# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime bench`: how fast a server answers, and how fast this engine computes."""
