# SPDX-License-Identifier: Apache-2.0
"""Where the time of a replica's steps goes: recorded while it serves, told afterwards. No torch."""
