// SPDX-License-Identifier: Apache-2.0
// What grammars spend their time on, in C, with the same results as the Python it stands in for.
//
//     numbers.c        arrays, lists and sets of numbers, and sequences of them that are kept once
//     descriptions.c   what expressions are
//     continuations.c  `Continuations`, the twin of `Automaton._then` and `_closure`
//     states.c         `States`, the twin of `states.States`
//     plans.c          which edges a state takes on which bytes
//     covering.c       items that another one makes superfluous, the twin of `covering`
//     products.c       products of states, and whether they can finish
//     unbounded.c      states without counts that no token reaches
//     loops.c          classes that a state reads over and over
//     chains.c         and others that lead from one state to the next
//     known.c          what is known of tokens by their bytes
//     masks.c          masks, put together from both
//     excluding.c      those of any text but some words
//     packing.c        masks, kept as the words in which they differ from others
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
#define TEXTS ((int64_t)1 << 29)     // heads from here on read texts: one byte, and then the next head
#define PRODUCTS ((int64_t)1 << 30)  // and from here on they are those of products
#define REST 0xFFFFFFFF              // of an item: its continuation; the head stands above
#define DEAD 0
#define DONE 1
#define ACCEPT 0  // the item that says that the text may end
#define SPARE 6
#define MOST_SPARE 1024  // numbers
#define UNMADE (-1)  // instead of a target
#define NEXT_HEAD 0  // of an edge that is taken: that of the item, and 1 more
#define MOST_USUAL 6
#define MOST_CLASSES 64
#define MOST_BEGINNINGS 32
#define MOST_COUNTED 127
#define MANY 24          // characters
#define MOST_CHAINED 24  // no fewer than these

// -- numbers.c --------------------------------------------------------------------------------------------------

void *grown(void *array, Py_ssize_t *room, Py_ssize_t count, size_t size);

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

// Memory that stays where it is until all of it is dropped.
typedef struct {
    int64_t *last;  // its first value is where the block before it is
    Py_ssize_t used, room;
} Blocks;

void *lasting(Blocks *blocks, size_t bytes);  // NULL: an exception
void blocks_drop(Blocks *blocks);

PyObject *ask(PyObject *callable, long long number);

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
    Blocks blocks;
} Pool;

int32_t pool_find(const Pool *pool, const int64_t *values, Py_ssize_t count);  // -1: it is not there
int32_t pool_add(Pool *pool, const int64_t *values, Py_ssize_t count);         // -1: an exception
void pool_drop(Pool *pool);

// -- descriptions.c ---------------------------------------------------------------------------------------------

#define EMPTY 1  // the expression

// OPTIONS without any: no string.
enum { OPTIONS, CHARACTER, SEQUENCE, REPEAT, WORDS, PRODUCT, LISTED, LATER, KEYS, VALUE, AFTER };

// Of LISTED: the first of the expressions that are reserved for it, colon, comma, close and alone, may there be others, how
// many members there are; then for each its head, its value, and whether it is required. The reserved ones: ANOTHER member;
// LATER, the rest after one; then for each member KEYS, from its text on; VALUE, from its colon on; and AFTER its value.
enum { FIRST, COLON, COMMA, CLOSE, ALONE, OTHERS, COUNT, MEMBERS };
enum { HEAD_OF, VALUE_OF, IS_REQUIRED, OF_MEMBER };
enum { ANOTHER, REST_OF_LIST, POINTS };

typedef struct {
    int32_t *numbers;  // NULL: not described yet
    int32_t count;  // of a point of a list: its member
    uint8_t kind;
} Expression;

// -- continuations.c --------------------------------------------------------------------------------------------

typedef struct {
    int32_t least, most;  // most: -1 without an end
} Count;

typedef struct {
    int32_t body;  // -1: no repetition; -2: not asked for yet
    Count count;
} Repetition;

typedef struct {
    int64_t *items;  // in order; NULL: not known yet
    int32_t count;
    int32_t expression, rest;
} Continuation;

typedef struct {
    PyObject_HEAD
    PyObject *describe, *check;
    struct States *states;  // that read them, and hold them; NULL: none yet, so products are not known
    Expression *expressions;
    Continuation *all;
    int32_t *slots;  // hash table of numbers in `all`, 0 where free: the end is not looked for
    Py_ssize_t described, capacity, count, slot_count;
    Blocks blocks;  // of items, and of numbers of expressions
    unsigned steps;
} Continuations;

int32_t then(Continuations *self, int32_t expression, int32_t rest);  // -1: an exception
int continuation_of(const Continuations *self, long long number, int32_t *continuation);
int find_items(Continuations *self, int32_t continuation);  // they are known then; -1: an exception
int32_t once_less(Continuations *self, int32_t continuation);
int describe(Continuations *self, int32_t expression);  // it is known then; -1: an exception
const Expression *described(const Continuations *self, int32_t expression);  // NULL: it is not
int told_counts(const Continuations *self, int32_t expression, Repetition *found);  // 1: it was described before
int character_of(Continuations *self, int32_t expression, int64_t *head);  // 1: it is one; -1: an exception

// -- states.c ---------------------------------------------------------------------------------------------------

typedef struct {
    uint64_t words[4];
} Bytes;  // a set of bytes

typedef struct {
    Bytes bytes;
    uint64_t code;  // (head after it << 1 | complete) << 32
} Edge;

typedef struct {
    Edge *all;
    int32_t count;
} Edges;

typedef struct {
    int32_t place;  // of the item, among those with a head
    uint64_t code;
} Taken;

typedef struct {
    Bytes bytes;
    int32_t first, count;  // in `taken`
} Part;

// Which edges of a state's items are taken on which bytes: `parts` of bytes that lead to the same state. One piece of
// memory.
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
    int32_t *targets;  // by part; UNMADE: not made yet
} Opened;

typedef struct {
    int32_t skeleton;  // -1: not known yet
    int32_t count;
    Count *counts;  // innermost first
} Shape;

enum { EDGES, COUNTS, WIDEST, ADMIT, SHORTEST, DISTANCE, UNCOUNTED, QUESTIONS };

typedef struct States {
    PyObject_HEAD
    Continuations *continuations;
    PyObject *ask[QUESTIONS];
    Pool items;  // by state
    Opened *opened;
    PyObject **moves;  // NULL: not asked for yet; they hold numbers only
    Pool heads;  // of states, and the plan of each
    Plan **plans;
    Pool taken;  // edges taken, with the continuations after them; and the state after each
    int32_t *targets;
    Pool known;  // heads, one by one; and the edges of each
    Edges *edges;
    uint16_t *texts;         // by head: a byte, and what is known of it
    Py_ssize_t text_count;
    Plan *of_byte[2][256];   // the plans of states that read it and nothing else, and have more to read after it, or not
    Pool skeletons;
    Shape *shapes;            // by continuation
    Repetition *repetitions;  // by expression
    Py_ssize_t opened_count, move_count, plan_count, target_count, edge_count, shape_count, repetition_count;
    Pool products;  // (both, left, right)
    int64_t *distances, *lengths;  // of products, to a completion; of continuations
    Py_ssize_t distance_count, length_count;
    int64_t farthest;
    int32_t everything;
    int32_t *uncounted, uncounted_from;  // by continuation; 0 where not known
    Py_ssize_t uncounted_count;
    Blocks blocks;  // of plans, targets and counts
    Numbers spare[SPARE];
    int spare_count;
    Py_ssize_t held, most_states, most_held;
    double deadline;  // from then on Python is asked whether more states are admitted
} States;

int32_t number(States *self, Numbers *items);  // of the state with these items, which may change; -1: an exception
int given_state(States *self, PyObject *given, int32_t *state);  // -1: an exception
int32_t make_target(States *self, int32_t state, int32_t part);  // -1: an exception
int32_t find_moves(States *self, int32_t state, const Bytes *among, int32_t *targets, Bytes *sets);
int accepts(const States *self, int32_t state);
int push_items(States *self, int32_t continuation, Numbers *items);  // those with which it may begin

// -- plans.c ----------------------------------------------------------------------------------------------------

int know_plan(States *self, int32_t state);
int edges_of(States *self, int64_t head, Edges *edges, Edge *only);  // of a text it is `only`; not to be changed
int read_edges(PyObject *packed, Edges *edges);                      // as `utf8.packed` writes them
int text_byte(States *self, int64_t head, int *last);                // the byte that it reads; -1: an exception

static inline int is_text(int64_t head) { return head >= TEXTS && head < PRODUCTS; }

static inline int open_state(States *self, int32_t state, Opened *opened) {
    if (self->opened[state].plan == NULL && know_plan(self, state) < 0) return -1;
    *opened = self->opened[state];
    return 0;
}

// The state after a byte of a part, or -1 with an exception. The state is open.
static inline int32_t target_of(States *self, int32_t state, const Opened *opened, int32_t part) {
    int32_t target = opened->targets[part];
    return target >= 0 ? target : make_target(self, state, part);
}

// The same after any byte.
static inline int32_t state_after(States *self, int32_t state, const Opened *opened, int byte) {
    int16_t part = opened->plan->part_of[byte];
    return part < 0 ? DEAD : target_of(self, state, opened, part);
}

// -- covering.c -------------------------------------------------------------------------------------------------

int counts_of(States *self, int32_t expression, Repetition *found);
int uncover(States *self, Numbers *items);  // drops those that others make superfluous, of some in order

// -- products.c -------------------------------------------------------------------------------------------------

int product_edges(States *self, int64_t head, Edges *edges);
int push_product(States *self, int64_t head, int32_t rest, Numbers *items);
int push_product_of(States *self, int both, int32_t left, int32_t right, int32_t rest, Numbers *items);
int push_appended(States *self, int32_t state, int32_t rest, Numbers *items);  // those of a state, and then `rest`
int is_without(const States *self, int64_t head, int32_t *left, int32_t *right);  // is it `left` and never `right`?
int32_t without_exceptions(States *self, int32_t state);  // reads what products take away too; -1: an exception
PyObject *states_product(PyObject *object, PyObject *given);
PyObject *states_product_head(PyObject *object, PyObject *args);
PyObject *states_is_live(PyObject *object, PyObject *given);
PyObject *states_farthest(PyObject *object, PyObject *ignored);
PyObject *states_everything(PyObject *object, PyObject *given);

// -- unbounded.c ------------------------------------------------------------------------------------------------

PyObject *states_unbounded(PyObject *object, PyObject *const *args, Py_ssize_t count);

// -- loops.c ----------------------------------------------------------------------------------------------------

// The usual classes beyond ASCII, by number: their edges.
typedef struct {
    Edges edges[MOST_USUAL];
    int count;
} Usual;

// The states after 0, 1, ... characters of a class; after the last of them, if it is not too far, state `back` again.
typedef struct {
    int32_t states[MOST_CHAINED], count, back;  // count 0: not known
} Chain;

// A class of characters that a state reads over and over: ASCII characters, and beyond them those of a usual class.
typedef struct {
    uint64_t ascii[2];
    int usual;      // -1: none beyond ASCII
    int32_t times;  // how many it reads at most; -1 without an end
    int returns;    // one more of them leads to the same state, where nothing else reads it
    int whole;      // it has all characters that are read so
    int alone;      // nothing else that the state reads on the way reads one of them
    Bytes leaving;  // what may be read after some of them and does not belong to the class
    int32_t least, after;  // after that many characters all else that is read is what state `after` reads; -1: no
    Chain chain;
} Loop;

int find_loop(States *self, const Usual *usual, int32_t state, Loop *loop);  // 1: there is one; -1: an exception
int find_chain(States *self, const Usual *usual, int32_t state, Loop *loop);  // of other states
int find_beyond(States *self, const Usual *usual, int32_t state, int32_t *after);

// -- walk.c -----------------------------------------------------------------------------------------------------

typedef struct {
    int32_t token;  // or -1
    int32_t size;   // of the subtree: the nodes to skip when nothing in it can be reached
    int32_t depth;  // 0 for roots
    uint8_t byte;
} Node;

typedef struct Known Known;

typedef struct {
    PyObject_HEAD
    Node *nodes;     // depth first: a walk goes through memory once, forwards
    int32_t *pairs;  // alias, aliased, alias, ...
    int32_t count, roots, depth, size;
    Py_ssize_t aliases;
    Usual usual;
    uint16_t *tables[MOST_USUAL];  // of the usual classes: [states, 256], how characters are read
    Known *known;                  // NULL until it is asked for
} Tree;

// Where a walk is: the state in which a node was reached, for each level above; opened when a node below it is met.
typedef struct {
    Opened opened;
    int32_t state;
} Level;

int descend(States *states, const Tree *tree, Level *levels, int32_t state, int32_t place, int32_t end, uint8_t *bits);

// -- known.c ----------------------------------------------------------------------------------------------------

#define PLAIN 0x80  // of `within`: ASCII only
#define BEFORE 129  // bytes before another: those beyond ASCII are one

// A node, and what stands on the way to it: after the `first` byte, ASCII characters among which its own byte is
// not. `within`: the usual classes that have all others of the way, as bits. characters: of the whole way.
typedef struct {
    uint64_t ascii[2];
    int32_t place;
    uint16_t characters;
    uint8_t first, within;
} Exit;

typedef struct {
    uint64_t ascii[2];
    int usual;
    int32_t longest;  // characters of a token
    int32_t several;  // tokens of more than one
    uint8_t *tokens;
} Class;

struct Known {
    Py_ssize_t bytes;  // of a mask
    int32_t root[256];   // the place of each, -1: none;
    int32_t below[256];  // and how many nodes its subtree has
    int32_t *parent;     // by place; -1 for roots
    int32_t *ordered;    // tokens, by place
    int32_t from[257];   // in `ordered`, by first byte
    uint8_t *first[256];       // the tokens that begin with a byte; NULL: they are few
    int32_t *containing;       // by byte, the tokens in which it stands behind another;
    int32_t contained[129];    // where those of a byte begin
    uint8_t *contains[128];    // the same as a mask; NULL: they are few
    uint8_t *block[8];         // tokens with one of 16 such bytes
    uint8_t *usual[MOST_USUAL + 1];  // tokens of ASCII and of the class beyond it; the last: of ASCII only
    uint8_t *up_to[MOST_COUNTED + 1];  // tokens of up to 0, 1, ... characters
    int32_t longest;
    Exit *exits;
    int32_t exits_of[256 * BEFORE + 1];  // where those of a byte begin, by the one before it
    Exit *far;                 // nodes that begin a character, after many others: by how many
    int32_t far_of[MOST_COUNTED + 2];
    Class classes[MOST_CLASSES];
    int class_count;
    struct {
        Bytes bytes;
        uint8_t *tokens;
    } beginnings[MOST_BEGINNINGS];
    int beginning_count;
};

int know(Tree *tree);
void forget(Known *known);
const Class *class_of(Known *known, const uint64_t *ascii, int usual);  // tokens of it after their first byte
const uint8_t *beginning_with(Known *known, const Bytes *bytes);        // bytes below 0x80, or all others

// -- masks.c ----------------------------------------------------------------------------------------------------

int fill_mask(States *states, Tree *tree, Level *levels, uint8_t *path, int32_t state, uint8_t *bits);

// -- excluding.c ------------------------------------------------------------------------------------------------

// Writes the mask; 0: the state does not read any text but some words.
int fill_excluding(States *states, Tree *tree, Level *levels, uint8_t *path, int32_t state, uint8_t *bits, Py_ssize_t bytes);

// -- packing.c --------------------------------------------------------------------------------------------------

PyObject *tree_key(PyObject *self, PyObject *given);
PyObject *tree_differing(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *tree_restore(PyObject *self, PyObject *const *args, Py_ssize_t count);

// -- the types --------------------------------------------------------------------------------------------------

typedef struct {
    PyTypeObject *tree, *continuations, *states;
} Types;

extern PyType_Spec tree_spec, continuations_spec, states_spec;

static inline int has_byte(const Bytes *bytes, int b) { return bytes->words[b >> 6] >> (b & 63) & 1; }

static inline void put(Bytes *bytes, int b) { bytes->words[b >> 6] |= (uint64_t)1 << (b & 63); }

// The first byte of a set from `b` on; 256 when there is none.
static inline int first_in(const Bytes *bytes, int b) {
    while (b < 256) {
        uint64_t rest = bytes->words[b >> 6] >> (b & 63);
        if (rest) return b + __builtin_ctzll(rest);
        b = (b | 63) + 1;
    }
    return 256;
}

static inline int has_bit(const uint8_t *bits, int32_t i) { return bits[i >> 3] >> (i & 7) & 1; }

static inline void set_bit(uint8_t *bits, int32_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }

static inline void clear_bit(uint8_t *bits, int32_t i) { bits[i >> 3] &= (uint8_t)~(1u << (i & 7)); }

#endif
