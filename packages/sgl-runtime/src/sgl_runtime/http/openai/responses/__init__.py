# SPDX-License-Identifier: Apache-2.0
"""`/v1/responses`: OpenAI's newer protocol, whose answers are lists of items."""
