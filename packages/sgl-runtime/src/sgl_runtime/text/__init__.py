# SPDX-License-Identifier: Apache-2.0
"""Everything about characters: tokens to bytes to text and back, and conversations to prompts.

Text is bytes until the last moment. It knows no process, no scheduler and no HTTP.
"""
