# SPDX-License-Identifier: Apache-2.0
"""Triton kernels: for each module of operations beside this folder one, with functions of the same names.

Imported only where Triton is. Arguments have been checked by then.
"""
