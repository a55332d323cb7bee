// SPDX-License-Identifier: Apache-2.0
// What grammars spend their time on, in C, with the same results as the Python it stands in for.
//
// `Tree` and `Rows` are the walk over the trie of tokens, the twin of `walk.Walk` and `walk.Rows`. A tree is a copy
// of a trie's nodes, checked once: they come in level order, so that the children of node i begin where those of
// node i - 1 end, and a node's children come after it; they are kept depth first. Rows are the transitions known so
// far; one that is not known is asked of Python, `step(state, byte)`, which tells of all bytes that lead to the same
// state for the same reason. What a state is they do not know.
//
// `Continuations` is the twin of `Automaton._then` and `_closure`. What it cannot read it leaves to Python.
//
// The GIL is held throughout, and `Grammar` holds its lock. Whatever calls Python may be called back: rows that are
// being walked refuse that, continuations remember nothing across it.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define UNKNOWN (-1)
#define MOST_STATES (1 << 24)

typedef struct {
    int32_t token;  // or -1
    int32_t size;   // of the subtree: the nodes to skip when nothing in it can be reached
    int32_t depth;  // 0 for roots
    uint8_t byte;
} Node;

typedef struct {
    PyObject_HEAD
    Node *nodes;     // depth first: a walk goes through memory once, forwards
    int32_t *place;  // in `nodes`, of each node by its number in level order
    int32_t *pairs;  // alias, aliased, alias, ...
    int32_t count, roots, depth, size;
    Py_ssize_t aliases;
} Tree;

typedef struct {
    PyObject_HEAD
    PyObject *step;
    int32_t **rows;  // by state; NULL: nothing known
    Py_ssize_t capacity, filled;
    int busy;
} Rows;

typedef struct {
    PyTypeObject *tree, *rows, *continuations;
} Types;

// -- arguments ------------------------------------------------------------------------------------------------

// A contiguous buffer of int32. On failure nothing is held and an exception is set.
static int int32s(PyObject *object, Py_buffer *view, const char *name) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) return -1;
    if (view->itemsize == 4 && view->ndim == 1 && view->format != NULL &&
        (strcmp(view->format, "i") == 0 || (sizeof(long) == 4 && strcmp(view->format, "l") == 0)))
        return 0;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_TypeError, "%s must be a contiguous array of int32 with one dimension", name);
    return -1;
}

static int writable_bits(PyObject *object, Py_buffer *view, int32_t size) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return -1;
    if (view->len >= ((Py_ssize_t)size + 7) / 8) return 0;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "out must have room for %d bits", (int)size);
    return -1;
}

static void set_bit(uint8_t *bits, int32_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }

static int has_bit(const uint8_t *bits, int32_t i) { return bits[i >> 3] >> (i & 7) & 1; }

// -- Tree -----------------------------------------------------------------------------------------------------

// The arrays are in level order: `place` and the nodes' own fields are found in one pass down and one up.
static int tree_fill(Tree *tree, const int32_t *byte, const int32_t *children, const int32_t *token) {
    int32_t *first = malloc(((size_t)tree->count + 1) * 2 * sizeof(int32_t));
    if (first == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int32_t *size = first + tree->count + 1;
    int64_t next = tree->roots;
    int failed = 0;
    for (int32_t i = 0; i < tree->count && !failed; i++) {
        failed = byte[i] < 0 || byte[i] > 255 || children[i] < 0 || children[i] > 256 || token[i] < -1 ||
                 token[i] >= tree->size || next <= i || next + children[i] > tree->count;
        first[i] = (int32_t)next;
        next += children[i];
        if (failed) PyErr_Format(PyExc_ValueError, "node %d is not that of a trie in level order", (int)i);
    }
    if (!failed && next != tree->count) {
        PyErr_SetString(PyExc_ValueError, "a node of the trie has no parent");
        failed = 1;
    }
    if (!failed) {
        for (int32_t i = tree->count - 1; i >= 0; i--) {
            size[i] = 1;
            for (int32_t child = first[i]; child < first[i] + children[i]; child++) size[i] += size[child];
        }
        int32_t place = 0;
        for (int32_t i = 0; i < tree->roots; i++) {
            tree->place[i] = place;
            tree->nodes[place].depth = 0;
            place += size[i];
        }
        for (int32_t i = 0; i < tree->count; i++) {
            Node *node = &tree->nodes[tree->place[i]];
            node->token = token[i];
            node->size = size[i];
            node->byte = (uint8_t)byte[i];
            if (node->depth >= tree->depth) tree->depth = node->depth + 1;
            place = tree->place[i] + 1;
            for (int32_t child = first[i]; child < first[i] + children[i]; child++) {
                tree->place[child] = place;
                tree->nodes[place].depth = node->depth + 1;
                place += size[child];
            }
        }
    }
    free(first);
    return failed ? -1 : 0;
}

static int tree_pair(Tree *tree, const int32_t *alias, const int32_t *aliased) {
    for (Py_ssize_t i = 0; i < tree->aliases; i++) {
        if (alias[i] < 0 || alias[i] >= tree->size || aliased[i] < 0 || aliased[i] >= tree->size) {
            PyErr_SetString(PyExc_ValueError, "an alias is outside of the vocabulary");
            return -1;
        }
        tree->pairs[2 * i] = alias[i];
        tree->pairs[2 * i + 1] = aliased[i];
    }
    return 0;
}

static PyObject *tree_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *objects[5];
    int roots, size;
    static char *names[] = {"byte", "children", "token", "alias", "aliased", "roots", "size", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOii:Tree", names, &objects[0], &objects[1], &objects[2],
                                     &objects[3], &objects[4], &roots, &size))
        return NULL;
    Py_buffer views[5];
    int held = 0;
    Tree *tree = NULL;
    while (held < 5 && int32s(objects[held], &views[held], names[held]) == 0) held++;
    if (held < 5) goto done;
    Py_ssize_t count = views[0].len / 4, aliases = views[3].len / 4;
    if (views[1].len != views[0].len || views[2].len != views[0].len || views[3].len != views[4].len ||
        count > INT32_MAX || roots < 0 || roots > count || size < 0) {
        PyErr_SetString(PyExc_ValueError, "the arrays of a trie must have equal lengths, and its roots be among them");
        goto done;
    }
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    tree = (Tree *)make(type, 0);
    if (tree == NULL) goto done;
    tree->count = (int32_t)count;
    tree->roots = (int32_t)roots;
    tree->size = (int32_t)size;
    tree->aliases = aliases;
    tree->nodes = malloc(((size_t)count + 1) * sizeof(Node));
    tree->place = malloc(((size_t)count + 1) * sizeof(int32_t));
    tree->pairs = malloc(((size_t)aliases + 1) * 2 * sizeof(int32_t));
    if (tree->nodes == NULL || tree->place == NULL || tree->pairs == NULL) PyErr_NoMemory();
    if (PyErr_Occurred() || tree_fill(tree, views[0].buf, views[1].buf, views[2].buf) < 0 ||
        tree_pair(tree, views[3].buf, views[4].buf) < 0) {
        Py_DECREF(tree);
        tree = NULL;
    }
done:
    while (held > 0) PyBuffer_Release(&views[--held]);
    return (PyObject *)tree;
}

static void tree_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    free(((Tree *)self)->nodes);
    free(((Tree *)self)->place);
    free(((Tree *)self)->pairs);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

// -- Rows -----------------------------------------------------------------------------------------------------

static void rows_drop(Rows *rows) {
    for (Py_ssize_t i = 0; i < rows->capacity; i++) free(rows->rows[i]);
    free(rows->rows);
    rows->rows = NULL;
    rows->capacity = rows->filled = 0;
}

// The row of a state, made if need be; NULL with an exception. It stays where it is until `clear`.
static int32_t *rows_of(Rows *rows, int32_t state) {
    if (state >= rows->capacity) {
        Py_ssize_t capacity = rows->capacity ? rows->capacity : 64;
        while (capacity <= state) capacity *= 2;
        int32_t **grown = realloc(rows->rows, (size_t)capacity * sizeof(int32_t *));
        if (grown == NULL) return (int32_t *)PyErr_NoMemory();
        memset(grown + rows->capacity, 0, (size_t)(capacity - rows->capacity) * sizeof(int32_t *));
        rows->rows = grown;
        rows->capacity = capacity;
    }
    if (rows->rows[state] == NULL) {
        int32_t *row = malloc(256 * sizeof(int32_t));
        if (row == NULL) return (int32_t *)PyErr_NoMemory();
        for (int i = 0; i < 256; i++) row[i] = UNKNOWN;
        rows->rows[state] = row;
        rows->filled++;
    }
    return rows->rows[state];
}

static int checked_state(PyObject *number, int32_t *state) {
    long value = PyLong_AsLong(number);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value < 0 || value >= MOST_STATES) {
        PyErr_Format(PyExc_ValueError, "%ld is no state", value);
        return -1;
    }
    *state = (int32_t)value;
    return 0;
}

// Ask for the target of a byte, and write it for every byte that is said to be alike.
static int ask(Rows *rows, int32_t state, int byte, int32_t *row) {
    PyObject *answer = PyObject_CallFunction(rows->step, "ii", (int)state, byte);
    if (answer == NULL) return -1;
    int32_t target;
    char *alike;
    Py_ssize_t length;
    int failed = -1;
    if (!PyTuple_Check(answer) || PyTuple_Size(answer) != 2) {
        PyErr_SetString(PyExc_TypeError, "step must return a pair");
    } else if (checked_state(PyTuple_GetItem(answer, 0), &target) == 0 &&
               PyBytes_AsStringAndSize(PyTuple_GetItem(answer, 1), &alike, &length) == 0) {
        if (length != 32) {
            PyErr_SetString(PyExc_ValueError, "step must return 32 bytes");
        } else {
            for (int b = 0; b < 256; b++)
                if (has_bit((const uint8_t *)alike, b)) row[b] = target;
            row[byte] = target;
            failed = 0;
        }
    }
    Py_DECREF(answer);
    return failed;
}

// Where a walk is: the states in which the nodes above were reached, from `from` levels down. `row` is that of
// `state`, or NULL until it is needed.
typedef struct {
    int32_t *row;
    int32_t state;
} Level;

// Set the bits of the tokens that can be reached among the nodes `place`..`end`, whole subtrees next to each other
// whose parent was reached in `state`. `levels` has room for every level.
static int descend(Rows *rows, const Tree *tree, Level *levels, int32_t state, int32_t place, int32_t end,
                   uint8_t *bits) {
    if (place >= end) return 0;
    int32_t top = tree->nodes[place].depth;
    levels[0] = (Level){NULL, state};
    while (place < end) {
        const Node *node = &tree->nodes[place];
        Level *level = &levels[node->depth - top];
        if (level->row == NULL && (level->row = rows_of(rows, level->state)) == NULL) return -1;
        if (level->row[node->byte] == UNKNOWN && ask(rows, level->state, node->byte, level->row) < 0) return -1;
        int32_t target = level->row[node->byte];
        if (target == 0) {
            place += node->size;
            continue;
        }
        if (node->token >= 0) set_bit(bits, node->token);
        if (node->size > 1) level[1] = (Level){NULL, target};
        place++;
    }
    return 0;
}

static void copy_aliases(const Tree *tree, uint8_t *bits) {
    for (Py_ssize_t i = 0; i < tree->aliases; i++)
        if (has_bit(bits, tree->pairs[2 * i + 1])) set_bit(bits, tree->pairs[2 * i]);
}

typedef struct {
    Tree *tree;
    Level *levels;
    Py_buffer out;
} Work;

static int begin(Rows *rows, PyTypeObject *type, PyObject *tree, PyObject *out, Work *work) {
    if (!PyObject_TypeCheck(tree, ((Types *)PyType_GetModuleState(type))->tree)) {
        PyErr_SetString(PyExc_TypeError, "tree must be a Tree");
        return -1;
    }
    if (rows->busy) {
        PyErr_SetString(PyExc_RuntimeError, "step came back to the rows that asked it");
        return -1;
    }
    work->tree = (Tree *)tree;
    if (writable_bits(out, &work->out, work->tree->size) < 0) return -1;
    work->levels = malloc(((size_t)work->tree->depth + 1) * sizeof(Level));
    if (work->levels == NULL) {
        PyBuffer_Release(&work->out);
        PyErr_NoMemory();
        return -1;
    }
    rows->busy = 1;
    return 0;
}

static PyObject *end(Rows *rows, Work *work, int failed) {
    if (!failed) copy_aliases(work->tree, work->out.buf);
    rows->busy = 0;
    free(work->levels);
    PyBuffer_Release(&work->out);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyObject *rows_walk(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) {
    Rows *rows = (Rows *)self;
    int32_t state;
    Work work;
    if (count != 3 || (names != NULL && PyTuple_Size(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "walk(tree, state, out) takes 3 arguments");
        return NULL;
    }
    if (checked_state(args[1], &state) < 0 || begin(rows, type, args[0], args[2], &work) < 0) return NULL;
    return end(rows, &work, descend(rows, work.tree, work.levels, state, 0, work.tree->count, work.out.buf));
}

static PyObject *rows_walk_after(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names) {
    Rows *rows = (Rows *)self;
    Work work;
    if (count != 4 || (names != NULL && PyTuple_Size(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "walk_after(tree, nodes, state, out) takes 4 arguments");
        return NULL;
    }
    int32_t state;
    Py_buffer nodes;
    if (checked_state(args[2], &state) < 0 || int32s(args[1], &nodes, "nodes") < 0) return NULL;
    if (begin(rows, type, args[0], args[3], &work) < 0) {
        PyBuffer_Release(&nodes);
        return NULL;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < nodes.len / 4; i++) {
        int32_t node = ((const int32_t *)nodes.buf)[i];
        if (node < 0 || node >= work.tree->count) {
            PyErr_Format(PyExc_IndexError, "%d is no node", (int)node);
            failed = 1;
        } else {
            int32_t place = work.tree->place[node];  // the node takes its own byte from `state`
            int32_t after = place + work.tree->nodes[place].size;
            failed = descend(rows, work.tree, work.levels, state, place, after, work.out.buf);
        }
    }
    PyBuffer_Release(&nodes);
    return end(rows, &work, failed);
}

static PyObject *rows_clear_all(PyObject *self, PyObject *ignored) {
    (void)ignored;
    if (((Rows *)self)->busy) {
        PyErr_SetString(PyExc_RuntimeError, "rows cannot be cleared during a walk");
        return NULL;
    }
    rows_drop((Rows *)self);
    Py_RETURN_NONE;
}

static Py_ssize_t rows_length(PyObject *self) { return ((Rows *)self)->filled; }

static PyObject *rows_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *step;
    static char *names[] = {"step", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Rows", names, &step)) return NULL;
    if (!PyCallable_Check(step)) {
        PyErr_SetString(PyExc_TypeError, "step must be callable");
        return NULL;
    }
    Rows *rows = (Rows *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (rows != NULL) rows->step = Py_NewRef(step);
    return (PyObject *)rows;
}

static int rows_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Rows *)self)->step);
    return 0;
}

static int rows_forget(PyObject *self) {
    Py_CLEAR(((Rows *)self)->step);
    return 0;
}

static void rows_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    rows_forget(self);
    rows_drop((Rows *)self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

// -- Continuations --------------------------------------------------------------------------------------------
// What is still to be read: (expression, continuation after it), hash-consed, with 0 for the end; and the items
// with which each may begin, as `Automaton._closure` finds them. Expressions are described by Python when they
// are first met: a tuple of their kind and numbers.

enum { OPTIONS, CHARACTER, SEQUENCE, REPEAT, WORDS, OPAQUE };  // OPTIONS without any: no string

typedef struct {
    int32_t *numbers;  // NULL: not described yet
    int32_t count;
    uint8_t kind;
} Expression;

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
} Continuations;

typedef struct {
    int64_t *values;
    Py_ssize_t count, capacity;
} Numbers;

static int push(Numbers *numbers, int64_t value) {
    if (numbers->count == numbers->capacity) {
        Py_ssize_t capacity = numbers->capacity ? 2 * numbers->capacity : 64;
        int64_t *grown = realloc(numbers->values, (size_t)capacity * sizeof(int64_t));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        numbers->values = grown;
        numbers->capacity = capacity;
    }
    numbers->values[numbers->count++] = value;
    return 0;
}

static int in_order(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void sort_distinct(Numbers *numbers) {
    if (numbers->count < 2) return;
    qsort(numbers->values, (size_t)numbers->count, sizeof(int64_t), in_order);
    Py_ssize_t kept = 1;
    for (Py_ssize_t i = 1; i < numbers->count; i++)
        if (numbers->values[i] != numbers->values[i - 1]) numbers->values[kept++] = numbers->values[i];
    numbers->count = kept;
}

static uint64_t mixed(int32_t a, int32_t b) {
    uint64_t x = ((uint64_t)(uint32_t)a << 32 | (uint32_t)b) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static int more_slots(Continuations *self) {
    Py_ssize_t count = self->slot_count ? 2 * self->slot_count : 256;
    int32_t *slots = calloc((size_t)count, sizeof(int32_t));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 1; i < self->count; i++) {
        size_t slot = mixed(self->all[i].expression, self->all[i].rest) & (size_t)(count - 1);
        while (slots[slot]) slot = (slot + 1) & (size_t)(count - 1);
        slots[slot] = (int32_t)i;
    }
    free(self->slots);
    self->slots = slots;
    self->slot_count = count;
    return 0;
}

static size_t slot_of(const Continuations *self, int32_t expression, int32_t rest) {
    size_t wrap = (size_t)(self->slot_count - 1), slot = mixed(expression, rest) & wrap;
    for (; self->slots[slot]; slot = (slot + 1) & wrap) {
        const Continuation *known = &self->all[self->slots[slot]];
        if (known->expression == expression && known->rest == rest) break;
    }
    return slot;
}

// The number of a continuation, or -1 with an exception. `rest` must be one.
static int32_t then(Continuations *self, int32_t expression, int32_t rest) {
    if (self->slot_count) {
        int32_t known = self->slots[slot_of(self, expression, rest)];
        if (known) return known;
    }
    // Making a tuple may run anything, by way of the garbage collector: nothing is remembered across it.
    PyObject *pair = Py_BuildValue("ii", (int)expression, (int)rest);
    if (pair == NULL) return -1;
    int32_t number = -1;
    if (2 * self->count >= self->slot_count && more_slots(self) < 0) goto done;
    size_t slot = slot_of(self, expression, rest);
    if (self->slots[slot]) {
        number = self->slots[slot];
        goto done;
    }
    if (self->count == self->capacity) {
        Continuation *grown = realloc(self->all, 2 * (size_t)self->capacity * sizeof(Continuation));
        if (grown == NULL || self->capacity > INT32_MAX / 4) {
            if (grown != NULL) self->all = grown;
            PyErr_NoMemory();
            goto done;
        }
        self->all = grown;
        self->capacity *= 2;
    }
    if (PyList_Append(self->pairs, pair) < 0) goto done;
    number = (int32_t)self->count++;
    self->all[number] = (Continuation){NULL, 0, expression, rest};
    self->slots[slot] = number;
done:
    Py_DECREF(pair);
    return number;
}

static int describe(Continuations *self, int32_t expression) {
    if (expression < self->described && self->expressions[expression].numbers != NULL) return 0;
    PyObject *answer = PyObject_CallFunction(self->describe, "i", (int)expression);
    if (answer == NULL) return -1;
    Py_ssize_t count = PyTuple_Check(answer) ? PyTuple_Size(answer) : 0;
    int32_t *numbers = count > 0 && count < INT32_MAX ? malloc((size_t)count * sizeof(int32_t)) : NULL;
    long kind = -1;
    for (Py_ssize_t i = 0; numbers != NULL && i < count && !PyErr_Occurred(); i++) {
        long value = PyLong_AsLong(PyTuple_GetItem(answer, i));
        if (i == 0) {
            kind = value;
        } else if (value < -1 || value > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a number of an expression is out of range");
        } else {
            numbers[i - 1] = (int32_t)value;
        }
    }
    Py_DECREF(answer);
    // What `expand` relies on: the shape of each kind, and no expression or head below 0 but the first of WORDS.
    Py_ssize_t given = count - 1;
    int right = numbers != NULL && !PyErr_Occurred() && kind >= OPTIONS && kind <= OPAQUE &&
                (kind != CHARACTER || given == 1) && (kind != REPEAT || given == 3) && (kind != WORDS || given % 2 == 1);
    for (Py_ssize_t i = kind == WORDS; right && i < given; i++) right = numbers[i] >= 0;
    if (right && expression >= self->described) {
        Py_ssize_t described = self->described ? self->described : 256;
        while (described <= expression) described *= 2;
        Expression *grown = realloc(self->expressions, (size_t)described * sizeof(Expression));
        if (grown == NULL) {
            right = 0;
            PyErr_NoMemory();
        } else {
            memset(grown + self->described, 0, (size_t)(described - self->described) * sizeof(Expression));
            self->expressions = grown;
            self->described = described;
        }
    }
    if (!right) {
        free(numbers);
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an expression was described wrongly");
        return -1;
    }
    if (self->expressions[expression].numbers != NULL) {  // described meanwhile, and perhaps in use
        free(numbers);
    } else {
        self->expressions[expression] = (Expression){numbers, (int32_t)given, (uint8_t)kind};
    }
    return 0;
}

static int follow(Continuations *self, Numbers *pending, int32_t expression, int32_t rest) {
    int32_t number = then(self, expression, rest);
    return number < 0 ? -1 : push(pending, number);
}

// One step from a continuation. 1: it has an expression that only Python can read.
static int expand(Continuations *self, int32_t expression, int32_t rest, Numbers *pending, Numbers *items) {
    const Expression node = self->expressions[expression];
    const int32_t *numbers = node.numbers;  // never freed while there are continuations
    int failed = 0;
    switch (node.kind) {
        case CHARACTER:
            return push(items, (int64_t)numbers[0] << 32 | rest);
        case SEQUENCE:
            for (int32_t i = node.count - 1; i >= 0 && rest >= 0; i--) rest = then(self, numbers[i], rest);
            return rest < 0 ? -1 : push(pending, rest);
        case OPTIONS:  // 0: the empty one, which `describe` writes as expression 1
            for (int32_t i = 0; i < node.count && !failed; i++)
                failed = numbers[i] == 1 ? push(pending, rest) : follow(self, pending, numbers[i], rest);
            return failed;
        case REPEAT: {  // body, may it be left out, what is left of the repetition after one time
            int32_t after = numbers[2] == 1 ? rest : then(self, numbers[2], rest);
            if (after < 0 || follow(self, pending, numbers[0], after) < 0) return -1;
            return numbers[1] ? push(pending, rest) : 0;
        }
        case WORDS:  // what follows the word that ends here, or -1; then heads, each with what follows it
            if (numbers[0] >= 0 && follow(self, pending, numbers[0], rest) < 0) return -1;
            for (int32_t i = 1; i < node.count && !failed; i += 2) {
                int32_t after = then(self, numbers[i + 1], rest);
                failed = after < 0 ? -1 : push(items, (int64_t)numbers[i] << 32 | after);
            }
            return failed;
        default:
            return 1;
    }
}

static int contains(const Numbers *sorted_by_hash, int64_t value) {
    // A set with open addressing; -1 where free.
    size_t wrap = (size_t)(sorted_by_hash->capacity - 1), slot = mixed((int32_t)value, 0) & wrap;
    for (; sorted_by_hash->values[slot] >= 0; slot = (slot + 1) & wrap)
        if (sorted_by_hash->values[slot] == value) return 1;
    return 0;
}

static int add(Numbers *set, int64_t value) {
    if (2 * set->count >= set->capacity) {
        Py_ssize_t capacity = set->capacity ? 2 * set->capacity : 32;
        int64_t *values = malloc((size_t)capacity * sizeof(int64_t));
        if (values == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t i = 0; i < capacity; i++) values[i] = -1;
        for (Py_ssize_t i = 0; i < set->capacity; i++) {
            if (set->values[i] < 0) continue;
            size_t slot = mixed((int32_t)set->values[i], 0) & (size_t)(capacity - 1);
            while (values[slot] >= 0) slot = (slot + 1) & (size_t)(capacity - 1);
            values[slot] = set->values[i];
        }
        free(set->values);
        set->values = values;
        set->capacity = capacity;
    }
    size_t wrap = (size_t)(set->capacity - 1), slot = mixed((int32_t)value, 0) & wrap;
    while (set->values[slot] >= 0) slot = (slot + 1) & wrap;
    set->values[slot] = value;
    set->count++;
    return 0;
}

// 0: `all[continuation].items` is known now; 1: only Python can tell; -1: an exception.
static int find_items(Continuations *self, int32_t continuation) {
    if (self->all[continuation].items != NULL) return 0;
    Numbers items = {0}, pending = {0}, seen = {0};
    int outcome = push(&pending, continuation) < 0 || add(&seen, continuation) < 0 ? -1 : 0;
    Py_ssize_t steps = 0;
    while (outcome == 0 && pending.count) {
        int32_t current = (int32_t)pending.values[--pending.count];
        const Continuation *known = &self->all[current];
        if (known->items != NULL) {
            for (int32_t i = 0; i < known->count && outcome == 0; i++) outcome = push(&items, known->items[i]);
            continue;
        }
        int32_t expression = known->expression, rest = known->rest;
        Py_ssize_t before = pending.count;
        if (describe(self, expression) < 0) {
            outcome = -1;
        } else {
            outcome = expand(self, expression, rest, &pending, &items);
        }
        Py_ssize_t kept = before;
        for (Py_ssize_t i = before; outcome == 0 && i < pending.count; i++) {
            if (contains(&seen, pending.values[i])) continue;
            outcome = add(&seen, pending.values[i]);
            pending.values[kept++] = pending.values[i];
        }
        pending.count = kept;
        if (outcome == 0 && (++steps % 64 == 0 || !pending.count)) {  // limits of size and of time
            PyObject *none = PyObject_CallFunction(self->check, "n", seen.count + items.count);
            if (none == NULL) outcome = -1;
            Py_XDECREF(none);
        }
    }
    if (outcome == 0) {
        sort_distinct(&items);
        int64_t *exact = malloc(((size_t)items.count + 1) * sizeof(int64_t));
        if (exact == NULL) {
            PyErr_NoMemory();
            outcome = -1;
        } else {
            if (items.count) memcpy(exact, items.values, (size_t)items.count * sizeof(int64_t));
            free(self->all[continuation].items);
            self->all[continuation].items = exact;
            self->all[continuation].count = (int32_t)items.count;
        }
    }
    free(items.values);
    free(pending.values);
    free(seen.values);
    return outcome;
}

static PyObject *tuple_of(const int64_t *values, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *value = PyLong_FromLongLong(values[i]);
        if (value == NULL || PyTuple_SetItem(tuple, i, value) < 0) Py_CLEAR(tuple);
    }
    return tuple;
}

static int continuation_of(Continuations *self, long long number, int32_t *continuation) {
    if (number < 0 || number >= self->count) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_IndexError, "%lld is no continuation", number);
        return -1;
    }
    *continuation = (int32_t)number;
    return 0;
}

static PyObject *continuations_then(PyObject *object, PyObject *args) {
    Continuations *self = (Continuations *)object;
    int expression, rest;
    int32_t checked;
    if (!PyArg_ParseTuple(args, "ii:then", &expression, &rest) || continuation_of(self, rest, &checked) < 0) return NULL;
    if (expression < 0) return PyErr_Format(PyExc_IndexError, "%d is no expression", expression);
    int32_t number = then(self, expression, checked);
    return number < 0 ? NULL : PyLong_FromLong(number);
}

static PyObject *continuations_closure(PyObject *object, PyObject *argument) {
    Continuations *self = (Continuations *)object;
    int32_t continuation;
    if (continuation_of(self, PyLong_AsLongLong(argument), &continuation) < 0) return NULL;
    int outcome = find_items(self, continuation);
    if (outcome < 0) return NULL;
    if (outcome > 0) Py_RETURN_NONE;
    return tuple_of(self->all[continuation].items, self->all[continuation].count);
}

static PyObject *continuations_learn(PyObject *object, PyObject *args) {
    Continuations *self = (Continuations *)object;
    long long number;
    PyObject *items;
    int32_t continuation;
    if (!PyArg_ParseTuple(args, "LO!:learn", &number, &PyTuple_Type, &items)) return NULL;
    Numbers found = {0};
    int failed = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(items) && !failed; i++) {
        long long value = PyLong_AsLongLong(PyTuple_GetItem(items, i));
        failed = PyErr_Occurred() != NULL || push(&found, value) < 0;
    }
    // Numbers with methods of their own could have come back here: the continuation is looked up after them.
    if (!failed && continuation_of(self, number, &continuation) == 0 && push(&found, 0) == 0) {
        found.count--;
        sort_distinct(&found);
        free(self->all[continuation].items);
        self->all[continuation].items = found.values;
        self->all[continuation].count = (int32_t)found.count;
        Py_RETURN_NONE;
    }
    free(found.values);
    return NULL;
}

// The items after the edges that were taken: `(head << 1 | complete) << 32 | continuation` each. In order; None when
// only Python can tell.
static PyObject *continuations_after(PyObject *object, PyObject *taken) {
    Continuations *self = (Continuations *)object;
    if (!PyTuple_Check(taken)) {
        PyErr_SetString(PyExc_TypeError, "after takes a tuple");
        return NULL;
    }
    Numbers items = {0};
    int outcome = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(taken) && outcome == 0; i++) {
        long long code = PyLong_AsLongLong(PyTuple_GetItem(taken, i));
        if (code < 0) {  // too large: of a product
            if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_OverflowError)) {
                outcome = -1;
            } else {
                PyErr_Clear();
                outcome = 1;
            }
            break;
        }
        int32_t rest;
        int64_t head = code >> 33;
        if (continuation_of(self, code & 0xFFFFFFFF, &rest) < 0) outcome = -1;
        if (outcome == 0 && head >= 1 << 30) outcome = 1;
        if (outcome == 0 && head) outcome = push(&items, head << 32 | rest);
        if (outcome == 0 && code >> 32 & 1) {
            outcome = find_items(self, rest);
            const Continuation *known = &self->all[rest];
            for (int32_t j = 0; outcome == 0 && j < known->count; j++) outcome = push(&items, known->items[j]);
        }
    }
    PyObject *found = NULL;
    if (outcome == 0) {
        sort_distinct(&items);
        found = tuple_of(items.values, items.count);
    } else if (outcome > 0) {
        found = Py_NewRef(Py_None);
    }
    free(items.values);
    return found;
}

static PyObject *continuations_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *describing, *checking, *pairs;
    static char *names[] = {"describe", "check", "pairs", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!:Continuations", names, &describing, &checking, &PyList_Type,
                                     &pairs))
        return NULL;
    if (!PyCallable_Check(describing) || !PyCallable_Check(checking) || PyList_Size(pairs) != 1) {
        PyErr_SetString(PyExc_TypeError, "describe and check must be callable, pairs a list with the end alone");
        return NULL;
    }
    Continuations *self = (Continuations *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) return NULL;
    self->describe = Py_NewRef(describing);
    self->check = Py_NewRef(checking);
    self->pairs = Py_NewRef(pairs);
    self->all = malloc(64 * sizeof(Continuation));
    int64_t *end_items = malloc(sizeof(int64_t));
    if (self->all == NULL || end_items == NULL) {
        free(end_items);
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    *end_items = 0;  // the item that says the text may end
    self->all[0] = (Continuation){end_items, 1, 1, 0};
    self->count = 1;
    self->capacity = 64;
    return (PyObject *)self;
}

static int continuations_traverse(PyObject *object, visitproc visit, void *arg) {
    Continuations *self = (Continuations *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->describe);
    Py_VISIT(self->check);
    Py_VISIT(self->pairs);
    return 0;
}

static int continuations_forget(PyObject *object) {
    Continuations *self = (Continuations *)object;
    Py_CLEAR(self->describe);
    Py_CLEAR(self->check);
    Py_CLEAR(self->pairs);
    return 0;
}

static void continuations_dealloc(PyObject *object) {
    Continuations *self = (Continuations *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    continuations_forget(object);
    for (Py_ssize_t i = 0; i < self->count; i++) free(self->all[i].items);
    for (Py_ssize_t i = 0; i < self->described; i++) free(self->expressions[i].numbers);
    free(self->all);
    free(self->expressions);
    free(self->slots);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

// -- the module -----------------------------------------------------------------------------------------------

static PyType_Slot tree_slots[] = {
    {Py_tp_doc, "Tree(byte, children, token, alias, aliased, roots, size): a trie's nodes in level order."},
    {Py_tp_new, tree_new},
    {Py_tp_dealloc, tree_dealloc},
    {0, NULL},
};
static PyType_Spec tree_spec = {"sgl_constrain._native.Tree", sizeof(Tree), 0, Py_TPFLAGS_DEFAULT, tree_slots};

static PyMethodDef rows_methods[] = {
    {"walk", (PyCFunction)(void (*)(void))rows_walk, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk(tree, state, out): set the bits of the tokens that may come next."},
    {"walk_after", (PyCFunction)(void (*)(void))rows_walk_after, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk_after(tree, nodes, state, out): the same for what is below `nodes`, whose parents are in `state`."},
    {"clear", rows_clear_all, METH_NOARGS, "Forget all transitions."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot rows_slots[] = {
    {Py_tp_doc, "Rows(step): transitions, asked of step(state, byte) -> (state, set of bytes as 32 bytes) when first needed; "
               "len: states with any."},
    {Py_tp_new, rows_new},         {Py_tp_dealloc, rows_dealloc}, {Py_tp_traverse, rows_traverse},
    {Py_tp_clear, rows_forget},    {Py_tp_methods, rows_methods}, {Py_mp_length, rows_length},
    {0, NULL},
};
static PyType_Spec rows_spec = {"sgl_constrain._native.Rows", sizeof(Rows), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, rows_slots};

static PyMethodDef continuations_methods[] = {
    {"then", continuations_then, METH_VARARGS, "then(expression, rest): the number of a continuation."},
    {"closure", continuations_closure, METH_O, "closure(continuation): the items it may begin with, or None."},
    {"learn", continuations_learn, METH_VARARGS, "learn(continuation, items): what `closure` could not tell."},
    {"after", continuations_after, METH_O, "after(edges): the items after edges that were taken, or None."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot continuations_slots[] = {
    {Py_tp_doc, "Continuations(describe, check, pairs): continuations and their items; pairs is appended to."},
    {Py_tp_new, continuations_new},
    {Py_tp_dealloc, continuations_dealloc},
    {Py_tp_traverse, continuations_traverse},
    {Py_tp_clear, continuations_forget},
    {Py_tp_methods, continuations_methods},
    {0, NULL},
};
static PyType_Spec continuations_spec = {"sgl_constrain._native.Continuations", sizeof(Continuations), 0,
                                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, continuations_slots};

static int module_exec(PyObject *module) {
    Types *types = PyModule_GetState(module);
    types->tree = (PyTypeObject *)PyType_FromModuleAndSpec(module, &tree_spec, NULL);
    if (types->tree == NULL || PyModule_AddType(module, types->tree) < 0) return -1;
    types->rows = (PyTypeObject *)PyType_FromModuleAndSpec(module, &rows_spec, NULL);
    if (types->rows == NULL || PyModule_AddType(module, types->rows) < 0) return -1;
    types->continuations = (PyTypeObject *)PyType_FromModuleAndSpec(module, &continuations_spec, NULL);
    if (types->continuations == NULL || PyModule_AddType(module, types->continuations) < 0) return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    Types *types = PyModule_GetState(module);
    Py_VISIT(types->tree);
    Py_VISIT(types->rows);
    Py_VISIT(types->continuations);
    return 0;
}

static int module_clear(PyObject *module) {
    Types *types = PyModule_GetState(module);
    Py_CLEAR(types->tree);
    Py_CLEAR(types->rows);
    Py_CLEAR(types->continuations);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};
static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_native", "The walk over the trie of tokens.", sizeof(Types), NULL,
    module_slots,          module_traverse, module_clear, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module_def); }
