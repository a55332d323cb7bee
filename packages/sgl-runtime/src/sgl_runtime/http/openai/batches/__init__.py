# SPDX-License-Identifier: Apache-2.0
"""`/v1/files` and `/v1/batches`: requests by the file, answered beside the traffic and across restarts."""
