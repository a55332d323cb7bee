// SPDX-License-Identifier: Apache-2.0
// A tree is a copy of a trie's nodes, checked once: they come in level order, so that the children of node i begin
// where those of node i - 1 end, and a node's children come after it; they are kept depth first. What a state is a
// tree does not know: it asks `States` for what is after it.

#include "native.h"

#define MOST_CORRECTED 20000  // nodes

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

static int check_table(const Py_buffer *view) {
    Py_ssize_t states = view->len / 512;
    int right = view->itemsize == 2 && view->format != NULL && strcmp(view->format, "H") == 0 &&
                view->len % 512 == 0 && states >= 2;
    for (Py_ssize_t i = 0; right && i < view->len / 2; i++) right = ((const uint16_t *)view->buf)[i] < states;
    if (!right) PyErr_SetString(PyExc_ValueError, "table must have a row of 256 uint16 for each state");
    return right ? 0 : -1;
}

static int writable_bits(PyObject *object, Py_buffer *view, int32_t size) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return -1;
    if (view->len >= ((Py_ssize_t)size + 7) / 8) return 0;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "out must have room for %d bits", (int)size);
    return -1;
}

// -- Tree -----------------------------------------------------------------------------------------------------

static int in_order(const int32_t *bytes, int32_t count) {
    for (int32_t i = 1; i < count; i++)
        if (bytes[i - 1] >= bytes[i]) return 0;
    return 1;
}

// The arrays are in level order: `places` and the nodes' own fields are found in one pass down and one up.
static int tree_fill(Tree *tree, const int32_t *byte, const int32_t *children, const int32_t *token) {
    int32_t *first = malloc(((size_t)tree->count + 1) * 3 * sizeof(int32_t));
    if (first == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int32_t *size = first + tree->count + 1, *places = size + tree->count + 1;
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
            failed |= !in_order(byte + first[i], children[i]);
        }
        failed |= !in_order(byte, tree->roots);
        if (failed) PyErr_SetString(PyExc_ValueError, "the children of a node are not in the order of their bytes");
    }
    if (!failed) {
        int32_t place = 0;
        for (int32_t i = 0; i < tree->roots; i++) {
            places[i] = place;
            tree->nodes[place].depth = 0;
            place += size[i];
        }
        for (int32_t i = 0; i < tree->count; i++) {
            Node *node = &tree->nodes[places[i]];
            node->token = token[i];
            node->size = size[i];
            node->byte = (uint8_t)byte[i];
            if (node->depth >= tree->depth) tree->depth = node->depth + 1;
            place = places[i] + 1;
            for (int32_t child = first[i]; child < first[i] + children[i]; child++) {
                places[child] = place;
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
    tree->pairs = malloc(((size_t)aliases + 1) * 2 * sizeof(int32_t));
    if (tree->nodes == NULL || tree->pairs == NULL) PyErr_NoMemory();
    if (PyErr_Occurred() || tree_fill(tree, views[0].buf, views[1].buf, views[2].buf) < 0 ||
        tree_pair(tree, views[3].buf, views[4].buf) < 0) {
        Py_DECREF(tree);
        tree = NULL;
    }
done:
    while (held > 0) PyBuffer_Release(&views[--held]);
    return (PyObject *)tree;
}

// What a usual class has beyond ASCII, and how its characters are read; before the first mask.
static PyObject *tree_learn(PyObject *self, PyObject *args) {
    Tree *tree = (Tree *)self;
    PyObject *packed, *given;
    Py_buffer view;
    Edges edges = {0};
    if (!PyArg_ParseTuple(args, "OO:learn", &packed, &given)) return NULL;
    if (tree->known != NULL || tree->usual.count == MOST_USUAL)
        return PyErr_Format(PyExc_ValueError, "up to %d classes are learnt, before the first mask", MOST_USUAL);
    if (PyObject_GetBuffer(given, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) return NULL;
    uint16_t *table = malloc((size_t)view.len + 1);
    if (table == NULL) {
        PyErr_NoMemory();
    } else if (check_table(&view) == 0 && read_edges(packed, &edges) == 0) {
        memcpy(table, view.buf, (size_t)view.len);
        tree->usual.edges[tree->usual.count] = edges;
        tree->tables[tree->usual.count++] = table;
        table = NULL;
    }
    free(table);
    PyBuffer_Release(&view);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static void tree_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Tree *tree = (Tree *)self;
    forget(tree->known);
    free(tree->nodes);
    free(tree->pairs);
    for (int u = 0; u < tree->usual.count; u++) {
        free(tree->usual.edges[u].all);
        free(tree->tables[u]);
    }
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

// -- walks ------------------------------------------------------------------------------------------------------

// Set the bits of the tokens that can be reached among the nodes `place`..`end`, whole subtrees next to each other
// whose parent was reached in `state`. `levels` has room for every level.
int descend(States *states, const Tree *tree, Level *levels, int32_t state, int32_t place, int32_t end, uint8_t *bits) {
    if (place >= end) return 0;
    int32_t top = tree->nodes[place].depth;
    levels[0] = (Level){{NULL, NULL}, state};
    while (place < end) {
        const Node *node = &tree->nodes[place];
        Level *level = &levels[node->depth - top];
        if (level->opened.plan == NULL && open_state(states, level->state, &level->opened) < 0) return -1;
        int32_t target = state_after(states, level->state, &level->opened, node->byte);
        if (target < 0) return -1;
        if (target == 0) {
            place += node->size;
            continue;
        }
        if (node->token >= 0) set_bit(bits, node->token);
        if (node->size > 1) level[1] = (Level){{NULL, NULL}, target};
        place++;
    }
    return 0;
}

// Two states at once.
typedef struct {
    Opened opened[2];
    int32_t state[2];
} Pair;

static int32_t pair_after(States *states, const Pair *pair, int i, int byte) {
    return state_after(states, pair->state[i], &pair->opened[i], byte);
}

// The bits are those of what can be reached in `other`: make them those of `state`, where the two differ. 1: there
// is too much of that, and the bits are half done.
static int correct(States *states, const Tree *tree, Pair *pairs, int32_t state, int32_t other, uint8_t *bits) {
    int32_t met = 0;
    pairs[0] = (Pair){.state = {state, other}};
    for (int32_t place = 0; place < tree->count;) {
        const Node *node = &tree->nodes[place];
        Pair *pair = &pairs[node->depth];
        for (int i = 0; i < 2; i++)
            if (pair->opened[i].plan == NULL && open_state(states, pair->state[i], &pair->opened[i]) < 0) return -1;
        int32_t here = pair_after(states, pair, 0, node->byte), there = pair_after(states, pair, 1, node->byte);
        if (here < 0 || there < 0) return -1;
        if (here == there) {
            place += node->size;
            continue;
        }
        if (++met > MOST_CORRECTED) return 1;
        if (node->token >= 0 && here == DEAD) clear_bit(bits, node->token);
        if (node->token >= 0 && here != DEAD) set_bit(bits, node->token);
        if (node->size > 1) pairs[node->depth + 1] = (Pair){.state = {here, there}};
        place++;
    }
    return 0;
}

static void copy_aliases(const Tree *tree, uint8_t *bits) {
    for (Py_ssize_t i = 0; i < tree->aliases; i++) {
        clear_bit(bits, tree->pairs[2 * i]);
        if (has_bit(bits, tree->pairs[2 * i + 1])) set_bit(bits, tree->pairs[2 * i]);
    }
}

// A state with products that take something away is filled like the one without, and corrected where that is not too
// much. `room`: for a pair a level, and one more.
static int fill(States *states, Tree *tree, Pair *room, int32_t state, uint8_t *bits, Py_ssize_t bytes) {
    Level *levels = (Level *)room;
    uint8_t *path = (uint8_t *)(levels + tree->depth + 2);  // a level has less than a pair
    int told = fill_excluding(states, tree, levels, path, state, bits, bytes);
    if (told) return told < 0 ? -1 : 0;
    int32_t more = without_exceptions(states, state);
    if (more < 0) return -1;
    for (int unfit = 1; unfit; more = state) {
        memset(bits, 0, (size_t)bytes);
        if (fill_mask(states, tree, levels, path, more, bits) < 0) return -1;
        unfit = more != state;
        if (unfit && (unfit = correct(states, tree, room, state, more, bits)) < 0) return -1;
    }
    return 0;
}

// The arguments of both methods: states, state, out.
static PyObject *tree_do(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count, PyObject *names,
                         int filling) {
    Tree *tree = (Tree *)self;
    int32_t state;
    Py_buffer out;
    if (count != 3 || (names != NULL && PyTuple_Size(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "a walk takes states, state and out");
        return NULL;
    }
    if (!PyObject_TypeCheck(args[0], ((Types *)PyType_GetModuleState(type))->states)) {
        PyErr_SetString(PyExc_TypeError, "states must be States");
        return NULL;
    }
    States *states = (States *)args[0];
    if (given_state(states, args[1], &state) < 0 || writable_bits(args[2], &out, tree->size) < 0) return NULL;
    Pair *room = malloc(((size_t)tree->depth + 2) * sizeof(Pair));
    int failed = -1;
    if (room == NULL) PyErr_NoMemory();
    else if (filling) failed = fill(states, tree, room, state, out.buf, out.len);
    else failed = descend(states, tree, (Level *)room, state, 0, tree->count, out.buf);
    if (failed == 0) copy_aliases(tree, out.buf);
    free(room);
    PyBuffer_Release(&out);
    if (failed < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *tree_walk(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) {
    return tree_do(self, type, args, count, names, 0);
}

static PyObject *tree_fill_mask(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                                PyObject *names) {
    return tree_do(self, type, args, count, names, 1);
}

static PyMethodDef tree_methods[] = {
    {"key", tree_key, METH_O,
     "key(mask): as `differing` from none set; where these are many a digest of 32 bytes, which others seldom have."},
    {"differing", (PyCFunction)(void (*)(void))tree_differing, METH_FASTCALL,
     "differing(mask, base): the words in which it differs from another, or from None; None where these are many."},
    {"restore", (PyCFunction)(void (*)(void))tree_restore, METH_FASTCALL,
     "restore((differing, base), out, row): writes the mask."},
    {"learn", tree_learn, METH_VARARGS,
     "learn(edges, table): what a usual class has beyond ASCII; and how its characters and all of ASCII are read."},
    {"walk", (PyCFunction)(void (*)(void))tree_walk, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk(states, state, out): set the bits of the tokens that may come next."},
    {"fill", (PyCFunction)(void (*)(void))tree_fill_mask, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "fill(states, state, out): the bits of the tokens that may come next, with what is known of tokens."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot tree_slots[] = {
    {Py_tp_doc, "Tree(byte, children, token, alias, aliased, roots, size): a trie's nodes in level order."},
    {Py_tp_new, tree_new},
    {Py_tp_dealloc, tree_dealloc},
    {Py_tp_methods, tree_methods},
    {0, NULL},
};
PyType_Spec tree_spec = {"sgl_constrain._native.Tree", sizeof(Tree), 0, Py_TPFLAGS_DEFAULT, tree_slots};
