// SPDX-License-Identifier: Apache-2.0
// What grammars spend their time on, in C, with the same results as the Python it stands in for.
//
//     numbers.c        lists and sets of numbers, and sequences of them that are kept once
//     continuations.c  `Continuations`, the twin of `Automaton._then` and `_closure`
//     states.c         `States`, the twin of `states.States`
//     walk.c           `Tree`, the twin of `walk.Walk`
//
// What the twin cannot tell it asks of Python, by functions that were given when a thing was made. The GIL is held
// throughout, and `Grammar` holds its lock. Whatever calls Python may be called back: what is kept by number may
// grow across it, and is looked up again.

#ifndef SGL_CONSTRAIN_NATIVE_H
#define SGL_CONSTRAIN_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_STATES (1 << 24)
#define PRODUCTS ((int64_t)1 << 30)  // heads from here on are those of products
#define REST 0xFFFFFFFF              // of an item: its continuation; the head stands above

// -- numbers.c --------------------------------------------------------------------------------------------------

typedef struct {
    int64_t *values;
    Py_ssize_t count, capacity;
} Numbers;

int push(Numbers *numbers, int64_t value);
int push_all(Numbers *numbers, PyObject *values);  // of anything that can be gone through
void sort_distinct(Numbers *numbers);
PyObject *tuple_of(const int64_t *values, Py_ssize_t count);

// A set, with open addressing: -1 where free, so its members are not negative.
int contains(const Numbers *set, int64_t value);
int add(Numbers *set, int64_t value);

uint64_t mixed(int32_t a, int32_t b);

// Sequences of numbers, each kept once, by number. They do not move while they are there.
typedef struct {
    int64_t *values;
    int32_t count;
    uint32_t hash;
} Sequence;

typedef struct {
    Sequence *all;
    int32_t *slots;  // the number of a sequence and 1 more; 0 where free
    Py_ssize_t count, capacity, slot_count;
} Pool;

int32_t pool_find(const Pool *pool, const int64_t *values, Py_ssize_t count);  // -1: it is not there
int32_t pool_add(Pool *pool, const int64_t *values, Py_ssize_t count);         // -1: an exception
void pool_drop(Pool *pool);

// -- continuations.c --------------------------------------------------------------------------------------------

typedef struct Expression Expression;

typedef struct {
    int64_t *items;  // in order; NULL: not known yet
    int32_t count;
    int32_t expression, rest;
} Continuation;

typedef struct {
    PyObject_HEAD
    PyObject *describe, *check, *pairs;
    Expression *expressions;
    Continuation *all;
    int32_t *slots;  // hash table of numbers in `all`, 0 where free: the end is not looked for
    Py_ssize_t described, capacity, count, slot_count;
    unsigned steps;
} Continuations;

int continuation_of(const Continuations *self, long long number, int32_t *continuation);
int find_items(Continuations *self, int32_t continuation);  // 0: they are known now; 1: only Python can tell; -1

// -- states.c ---------------------------------------------------------------------------------------------------

typedef struct {
    uint64_t words[4];
} Bytes;  // a set of bytes

typedef struct States States;

typedef struct Part Part;
typedef struct Taken Taken;

// Which edges of a state's items are taken on which bytes: `parts` of bytes that lead to the same state.
typedef struct {
    Bytes begins;
    int32_t count;
    int16_t part_of[256];  // -1: DEAD
    Part *parts;
    Taken *taken;
} Plan;

// What is known of a state. Both stay where they are as long as there are states.
typedef struct {
    Plan *plan;  // NULL: not asked for yet
    int32_t *targets;  // by part; -1: not made yet
} Opened;

int given_state(States *self, PyObject *given, int32_t *state);  // begins what Python asked for
int open_state(States *self, int32_t state, Opened *opened);
int32_t make_target(States *self, int32_t state, int32_t part);  // -1: an exception

// -- the types --------------------------------------------------------------------------------------------------

typedef struct {
    PyTypeObject *tree, *continuations, *states;
} Types;

extern PyType_Spec tree_spec, continuations_spec, states_spec;

static inline int has_bit(const uint8_t *bits, int32_t i) { return bits[i >> 3] >> (i & 7) & 1; }

static inline void set_bit(uint8_t *bits, int32_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }

#endif
