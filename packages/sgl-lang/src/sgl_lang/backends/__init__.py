# SPDX-License-Identifier: Apache-2.0
"""What programs run on. Each backend is one file that implements `protocol.Backend`."""
