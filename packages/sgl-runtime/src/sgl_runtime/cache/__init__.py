# SPDX-License-Identifier: Apache-2.0
"""Who owns which KV slot and which page-table row: bookkeeping in numpy, no tensor, no policy."""
