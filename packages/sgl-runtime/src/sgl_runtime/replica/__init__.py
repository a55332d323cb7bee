# SPDX-License-Identifier: Apache-2.0
"""The processes that compute: where torch-free scheduling meets torch."""
