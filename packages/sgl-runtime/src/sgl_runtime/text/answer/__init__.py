# SPDX-License-Identifier: Apache-2.0
"""What a model's answer says: text, reasoning, and calls of tools, read as it arrives.

A reader is a generator over a `Source`: it reads as if all of the text were there, and yields None where it
must wait for more. So what it finds cannot depend on how the text was divided.
"""
