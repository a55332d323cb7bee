// SPDX-License-Identifier: Apache-2.0
// A tree is a copy of a trie's nodes, checked once: they come in level order, so that the children of node i begin
// where those of node i - 1 end, and a node's children come after it; they are kept depth first. Rows are the
// transitions known so far; one that is not known is asked of `States`, or of any `step(state, byte)`, which tells of
// all bytes that lead to the same state for the same reason. What a state is they do not know.

#include "native.h"

#define UNKNOWN (-1)

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
    States *states;  // the same as `step`, or NULL
    int32_t **rows;  // by state; NULL: nothing known
    Py_ssize_t capacity, filled;
    int busy;
} Rows;

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

int checked_state(PyObject *number, int32_t *state) {
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
    if (rows->states != NULL) {
        Bytes same;
        int32_t next = step_alike(rows->states, state, byte, &same);
        for (int b = 0; next >= 0 && b < 256; b++)
            if (same.words[b >> 6] >> (b & 63) & 1) row[b] = next;
        return next < 0 ? -1 : 0;
    }
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

static int begin(Rows *rows, PyTypeObject *type, PyObject *tree, int32_t state, PyObject *out, Work *work) {
    if (!PyObject_TypeCheck(tree, ((Types *)PyType_GetModuleState(type))->tree)) {
        PyErr_SetString(PyExc_TypeError, "tree must be a Tree");
        return -1;
    }
    if (rows->busy) {
        PyErr_SetString(PyExc_RuntimeError, "step came back to the rows that asked it");
        return -1;
    }
    if (rows->states != NULL && !is_state(rows->states, state)) {
        PyErr_Format(PyExc_ValueError, "%d is no state", (int)state);
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
    if (rows->states != NULL) begin_call(rows->states);
    return 0;
}

static void end(Rows *rows, Work *work, int failed) {
    if (!failed) copy_aliases(work->tree, work->out.buf);
    rows->busy = 0;
    free(work->levels);
    PyBuffer_Release(&work->out);
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
    if (checked_state(args[1], &state) < 0 || begin(rows, type, args[0], state, args[2], &work) < 0) return NULL;
    int failed = descend(rows, work.tree, work.levels, state, 0, work.tree->count, work.out.buf) < 0;
    end(rows, &work, failed);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

// Three arrays of equal ends: `starts`, [257], says where the nodes of each byte begin in the other two, [n].
static int check_exits(const Py_buffer *views, int32_t count) {
    const int32_t *nodes = views[0].buf, *starts = views[2].buf;
    Py_ssize_t length = views[0].len / 4;
    int right = views[1].len == views[0].len && views[2].len == 257 * 4 && starts[0] == 0 && starts[256] == length;
    for (int b = 0; right && b < 256; b++) right = starts[b] <= starts[b + 1];
    for (Py_ssize_t i = 0; right && i < length; i++) right = nodes[i] >= 0 && nodes[i] < count;
    if (!right) PyErr_SetString(PyExc_ValueError, "nodes, lengths and starts are not those of a trie");
    return right ? 0 : -1;
}

// What is below those nodes that are left to after least..most characters, other than `skip`.
static int walk_exits(Rows *rows, const Work *work, const Py_buffer *views, int32_t least, int32_t most, int32_t skip,
                      int32_t state) {
    const int32_t *nodes = views[0].buf, *lengths = views[1].buf, *starts = views[2].buf;
    const Tree *tree = work->tree;
    int32_t *row = rows_of(rows, state);
    if (row == NULL) return -1;
    for (int byte = 0; byte < 256; byte++)
        for (int32_t i = starts[byte]; i < starts[byte + 1]; i++) {
            if (lengths[i] < least || lengths[i] > most || nodes[i] == skip) continue;
            if (row[byte] == UNKNOWN && ask(rows, state, byte, row) < 0) return -1;
            if (row[byte] == 0) break;  // so it is with all of them
            int32_t place = tree->place[nodes[i]];  // the node takes its own byte from `state`
            if (descend(rows, tree, work->levels, state, place, place + tree->nodes[place].size, work->out.buf) < 0)
                return -1;
        }
    return 0;
}

static PyObject *rows_walk_after(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names) {
    static const char *buffers[] = {"nodes", "lengths", "starts"};
    Rows *rows = (Rows *)self;
    Work work;
    Py_buffer views[3];
    int held = 0, failed = 1;
    if (count != 9 || (names != NULL && PyTuple_Size(names) > 0)) {
        PyErr_SetString(PyExc_TypeError,
                        "walk_after(tree, nodes, lengths, starts, least, most, skip, state, out) takes 9 arguments");
        return NULL;
    }
    long bounds[3];  // least, most, skip
    for (int i = 0; i < 3; i++) {
        bounds[i] = PyLong_AsLong(args[4 + i]);
        if (bounds[i] == -1 && PyErr_Occurred()) return NULL;
        bounds[i] = bounds[i] < -1 ? -1 : bounds[i] > INT32_MAX ? INT32_MAX : bounds[i];
    }
    int32_t state;
    if (checked_state(args[7], &state) < 0) return NULL;
    while (held < 3 && int32s(args[1 + held], &views[held], buffers[held]) == 0) held++;
    if (held == 3 && begin(rows, type, args[0], state, args[8], &work) == 0) {
        failed = check_exits(views, work.tree->count) < 0 ||
                 walk_exits(rows, &work, views, (int32_t)bounds[0], (int32_t)bounds[1], (int32_t)bounds[2], state) < 0;
        end(rows, &work, failed);
    }
    while (held > 0) PyBuffer_Release(&views[--held]);
    if (failed) return NULL;
    Py_RETURN_NONE;
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
    Types *types = PyType_GetModuleState(type);
    if (types == NULL) return NULL;
    int direct = PyObject_TypeCheck(step, types->states);
    if (!direct && !PyCallable_Check(step)) {
        PyErr_SetString(PyExc_TypeError, "step must be States or callable");
        return NULL;
    }
    Rows *rows = (Rows *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (rows == NULL) return NULL;
    rows->step = Py_NewRef(step);
    rows->states = direct ? (States *)step : NULL;
    return (PyObject *)rows;
}

static int rows_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Rows *)self)->step);
    return 0;
}

static int rows_forget(PyObject *self) {
    ((Rows *)self)->states = NULL;
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

static PyType_Slot tree_slots[] = {
    {Py_tp_doc, "Tree(byte, children, token, alias, aliased, roots, size): a trie's nodes in level order."},
    {Py_tp_new, tree_new},
    {Py_tp_dealloc, tree_dealloc},
    {0, NULL},
};
PyType_Spec tree_spec = {"sgl_constrain._native.Tree", sizeof(Tree), 0, Py_TPFLAGS_DEFAULT, tree_slots};

static PyMethodDef rows_methods[] = {
    {"walk", (PyCFunction)(void (*)(void))rows_walk, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk(tree, state, out): set the bits of the tokens that may come next."},
    {"walk_after", (PyCFunction)(void (*)(void))rows_walk_after, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk_after(tree, nodes, lengths, starts, least, most, skip, state, out): the same for what is below the nodes, "
     "by byte, that are left to in `state` after least..most characters."},
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
PyType_Spec rows_spec = {"sgl_constrain._native.Rows", sizeof(Rows), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, rows_slots};
