# SPDX-License-Identifier: Apache-2.0
"""JSON Schema: from a schema to an expression that reads exactly the JSON texts of the values it allows.

document     the schema as numbered subschemas, references resolved
terms        what a place demands: a set of subschemas that must hold, and of subschemas that must not
conditions   what can be said of the values of one type; opposites
sets         what a term allows, type by type, as unions of conditions; intersection and complement
reading      subschemas -> sets, by `keywords`
writing      sets -> expressions (`numbers`, `strings`, `arrays`, `objects` with `keys`)
"""
