# SPDX-License-Identifier: Apache-2.0
"""The api process: starlette routes on hypercorn. Knows the engine's client, but neither zmq nor torch."""
