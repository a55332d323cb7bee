# SPDX-License-Identifier: Apache-2.0
"""What each keyword says, as sets of values. `table` names them all; a function reads one keyword, or a few
that depend on each other, of one subschema.
"""
