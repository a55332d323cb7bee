// SPDX-License-Identifier: Apache-2.0
// A tree is a copy of a trie's nodes, checked once: they come in level order, so that the children of node i begin
// where those of node i - 1 end, and a node's children come after it; they are kept depth first. What a state is a
// tree does not know: it asks `States` for what is after it.

#include "native.h"

typedef struct {
    int32_t token;  // or -1
    int32_t size;   // of the subtree: the nodes to skip when nothing in it can be reached
    int32_t depth;  // 0 for roots
    uint8_t byte;
} Node;

// What a subtree consists of.
typedef struct {
    uint64_t ascii[2];  // the bytes below 0x80 in it
    int32_t height;     // in levels, when all its bytes are such; 0: they are not
    int32_t tokens;     // before it in `ordered`
} Below;

typedef struct {
    PyObject_HEAD
    Node *nodes;     // depth first: a walk goes through memory once, forwards
    int32_t *place;  // in `nodes`, of each node by its number in level order
    int32_t *number;  // the other way round
    int32_t *pairs;  // alias, aliased, alias, ...
    int32_t count, roots, depth, size;
    Py_ssize_t aliases;
    Below *below;      // by place, with one for the end; NULL until runs are asked for
    int32_t *ordered;  // the tokens of the nodes, depth first
} Tree;

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
            tree->number[tree->place[i]] = i;
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
    tree->number = malloc(((size_t)count + 1) * sizeof(int32_t));
    tree->pairs = malloc(((size_t)aliases + 1) * 2 * sizeof(int32_t));
    if (tree->nodes == NULL || tree->place == NULL || tree->number == NULL || tree->pairs == NULL) PyErr_NoMemory();
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
    free(((Tree *)self)->number);
    free(((Tree *)self)->pairs);
    free(((Tree *)self)->below);
    free(((Tree *)self)->ordered);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

// -- walks ------------------------------------------------------------------------------------------------------

// Where a walk is: the state in which a node was reached, for each level above; opened when a node below it is met.
typedef struct {
    Opened opened;
    int32_t state;
} Level;

// Set the bits of the tokens that can be reached among the nodes `place`..`end`, whole subtrees next to each other
// whose parent was reached in `state`. `levels` has room for every level.
static int descend(States *states, const Tree *tree, Level *levels, int32_t state, int32_t place, int32_t end,
                   uint8_t *bits) {
    if (place >= end) return 0;
    int32_t top = tree->nodes[place].depth;
    levels[0] = (Level){{NULL, NULL}, state};
    while (place < end) {
        const Node *node = &tree->nodes[place];
        Level *level = &levels[node->depth - top];
        if (level->opened.plan == NULL && open_state(states, level->state, &level->opened) < 0) return -1;
        int16_t part = level->opened.plan->part_of[node->byte];
        int32_t target = part < 0 ? 0 : level->opened.targets[part];
        if (target < 0 && (target = make_target(states, level->state, part)) < 0) return -1;
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

static void copy_aliases(const Tree *tree, uint8_t *bits) {
    for (Py_ssize_t i = 0; i < tree->aliases; i++)
        if (has_bit(bits, tree->pairs[2 * i + 1])) set_bit(bits, tree->pairs[2 * i]);
}

typedef struct {
    States *states;
    Level *levels;
    Py_buffer out;
} Work;

static int begin(const Tree *tree, PyTypeObject *type, PyObject *states, PyObject *number, PyObject *out,
                 int32_t *state, Work *work) {
    if (!PyObject_TypeCheck(states, ((Types *)PyType_GetModuleState(type))->states)) {
        PyErr_SetString(PyExc_TypeError, "states must be States");
        return -1;
    }
    work->states = (States *)states;
    if (given_state(work->states, number, state) < 0 || writable_bits(out, &work->out, tree->size) < 0) return -1;
    work->levels = malloc(((size_t)tree->depth + 1) * sizeof(Level));
    if (work->levels == NULL) {
        PyBuffer_Release(&work->out);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void end(const Tree *tree, Work *work, int failed) {
    if (!failed) copy_aliases(tree, work->out.buf);
    free(work->levels);
    PyBuffer_Release(&work->out);
}

static PyObject *tree_walk(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) {
    const Tree *tree = (Tree *)self;
    int32_t state;
    Work work;
    if (count != 3 || (names != NULL && PyTuple_Size(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "walk(states, state, out) takes 3 arguments");
        return NULL;
    }
    if (begin(tree, type, args[0], args[1], args[2], &state, &work) < 0) return NULL;
    int failed = descend(work.states, tree, work.levels, state, 0, tree->count, work.out.buf) < 0;
    end(tree, &work, failed);
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
static int walk_exits(const Tree *tree, const Work *work, const Py_buffer *views, int32_t least, int32_t most,
                      int32_t skip, int32_t state) {
    const int32_t *nodes = views[0].buf, *lengths = views[1].buf, *starts = views[2].buf;
    Opened opened;
    if (open_state(work->states, state, &opened) < 0) return -1;
    for (int byte = 0; byte < 256; byte++) {
        if (opened.plan->part_of[byte] < 0) continue;
        for (int32_t i = starts[byte]; i < starts[byte + 1]; i++) {
            if (lengths[i] < least || lengths[i] > most || nodes[i] == skip) continue;
            int32_t place = tree->place[nodes[i]];  // the node takes its own byte from `state`
            int32_t after = place + tree->nodes[place].size;
            if (descend(work->states, tree, work->levels, state, place, after, work->out.buf) < 0) return -1;
        }
    }
    return 0;
}

static PyObject *tree_walk_after(PyObject *self, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names) {
    static const char *buffers[] = {"nodes", "lengths", "starts"};
    const Tree *tree = (Tree *)self;
    Work work;
    Py_buffer views[3];
    int32_t state;
    int held = 0, failed = 1;
    if (count != 9 || (names != NULL && PyTuple_Size(names) > 0)) {
        PyErr_SetString(PyExc_TypeError,
                        "walk_after(states, nodes, lengths, starts, least, most, skip, state, out) takes 9 arguments");
        return NULL;
    }
    long bounds[3];  // least, most, skip
    for (int i = 0; i < 3; i++) {
        bounds[i] = PyLong_AsLong(args[4 + i]);
        if (bounds[i] == -1 && PyErr_Occurred()) return NULL;
        bounds[i] = bounds[i] < -1 ? -1 : bounds[i] > INT32_MAX ? INT32_MAX : bounds[i];
    }
    while (held < 3 && int32s(args[1 + held], &views[held], buffers[held]) == 0) held++;
    if (held == 3 && begin(tree, type, args[0], args[7], args[8], &state, &work) == 0) {
        failed = check_exits(views, tree->count) < 0 ||
                 walk_exits(tree, &work, views, (int32_t)bounds[0], (int32_t)bounds[1], (int32_t)bounds[2], state) < 0;
        end(tree, &work, failed);
    }
    while (held > 0) PyBuffer_Release(&views[--held]);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

// -- runs of a class --------------------------------------------------------------------------------------------

#define LEFT 0     // states of a class, as `runs` has them: left it,
#define BETWEEN 1  // and between two of its characters

typedef struct {
    int32_t characters;
    uint16_t state;
} Within;

typedef struct {
    Py_ssize_t inside;
    int32_t longest;
    Numbers left;  // characters << 32 | node
} Found;

static int know_below(Tree *tree) {
    if (tree->below != NULL) return 0;
    Below *below = calloc((size_t)tree->count + 1, sizeof(Below));
    int32_t *ordered = malloc(((size_t)tree->count + 1) * sizeof(int32_t)), tokens = 0;
    if (below == NULL || ordered == NULL) {
        free(below);
        free(ordered);
        PyErr_NoMemory();
        return -1;
    }
    for (int32_t place = 0; place <= tree->count; place++) {
        below[place].tokens = tokens;
        if (place < tree->count && tree->nodes[place].token >= 0) ordered[tokens++] = tree->nodes[place].token;
    }
    for (int32_t place = tree->count - 1; place >= 0; place--) {
        const Node *node = &tree->nodes[place];
        Below *here = &below[place];
        int ascii = node->byte < 0x80, height = 0;
        if (ascii) here->ascii[node->byte >> 6] |= (uint64_t)1 << (node->byte & 63);
        for (int32_t child = place + 1; ascii && child < place + node->size; child += tree->nodes[child].size) {
            ascii = below[child].height > 0;
            for (int w = 0; w < 2; w++) here->ascii[w] |= below[child].ascii[w];
            if (below[child].height > height) height = below[child].height;
        }
        here->height = ascii ? height + 1 : 0;
    }
    tree->below = below;
    tree->ordered = ordered;
    return 0;
}

// Mark the tokens inside a class, and find where the others leave it. `levels` has room for every level and one more.
static int find_runs(const Tree *tree, const uint16_t *table, Within *levels, uint8_t *tokens, Found *found) {
    Within above = {0, BETWEEN};
    uint64_t foreign[2] = {0, 0};  // ASCII that does not belong to the class
    for (int b = 0; b < 128; b++)
        if (table[BETWEEN << 8 | b] != BETWEEN) foreign[b >> 6] |= (uint64_t)1 << (b & 63);
    levels[0] = above;
    for (int32_t place = 0, depth = 0; place < tree->count;) {
        const Node *node = &tree->nodes[place];
        if (node->depth != depth) above = levels[depth = node->depth];
        const Below *below = &tree->below[place];
        if (above.state == BETWEEN && below->height && !(below->ascii[0] & foreign[0]) &&
            !(below->ascii[1] & foreign[1])) {  // all of it is inside; its deepest nodes end tokens
            for (int32_t i = below->tokens; i < below[node->size].tokens; i++) tokens[tree->ordered[i]] = 1;
            if (above.characters + below->height > found->longest) found->longest = above.characters + below->height;
            found->inside += node->size;
            place += node->size;
            continue;
        }
        uint16_t state = table[above.state << 8 | node->byte];
        if (state == LEFT) {
            if (above.state == BETWEEN &&
                push(&found->left, (int64_t)above.characters << 32 | tree->number[place]) < 0)
                return -1;
            place += node->size;
            continue;
        }
        int32_t characters = above.characters + ((node->byte & 0xC0) != 0x80);
        found->inside++;
        if (node->token >= 0) {
            tokens[node->token] = 1;
            if (characters > found->longest) found->longest = characters;
        }
        if (node->size > 1) levels[node->depth + 1] = (Within){characters, state};
        place++;
    }
    for (Py_ssize_t i = 0; i < tree->aliases; i++) tokens[tree->pairs[2 * i]] |= tokens[tree->pairs[2 * i + 1]];
    return 0;
}

static PyObject *halves_of(const Numbers *numbers, int shift) {
    int32_t *halves = malloc(((size_t)numbers->count + 1) * sizeof(int32_t));
    if (halves == NULL) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < numbers->count; i++) halves[i] = (int32_t)(numbers->values[i] >> shift);
    PyObject *bytes = PyBytes_FromStringAndSize((char *)halves, numbers->count * (Py_ssize_t)sizeof(int32_t));
    free(halves);
    return bytes;
}

static int check_table(const Py_buffer *view) {
    Py_ssize_t states = view->len / 512;
    int right = view->itemsize == 2 && view->format != NULL && strcmp(view->format, "H") == 0 &&
                view->len % 512 == 0 && states >= 2;
    for (Py_ssize_t i = 0; right && i < view->len / 2; i++) right = ((const uint16_t *)view->buf)[i] < states;
    if (!right) PyErr_SetString(PyExc_ValueError, "table must have a row of 256 uint16 for each state");
    return right ? 0 : -1;
}

static PyObject *tree_runs(PyObject *self, PyObject *args) {
    Tree *tree = (Tree *)self;
    PyObject *objects[2], *answer = NULL;
    Py_buffer table, tokens;
    if (!PyArg_ParseTuple(args, "OO:runs", &objects[0], &objects[1])) return NULL;
    if (PyObject_GetBuffer(objects[0], &table, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) return NULL;
    if (PyObject_GetBuffer(objects[1], &tokens, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&table);
        return NULL;
    }
    Found found = {0};
    Within *levels = malloc(((size_t)tree->depth + 2) * sizeof(Within));
    if (levels == NULL) {
        PyErr_NoMemory();
    } else if (tokens.len < tree->size) {
        PyErr_Format(PyExc_ValueError, "tokens must have room for %d", (int)tree->size);
    } else if (check_table(&table) == 0 && know_below(tree) == 0 && find_runs(tree, table.buf, levels, tokens.buf, &found) == 0) {
        PyObject *nodes = halves_of(&found.left, 0), *lengths = nodes == NULL ? NULL : halves_of(&found.left, 32);
        if (lengths != NULL) answer = Py_BuildValue("niOO", found.inside, (int)found.longest, nodes, lengths);
        Py_XDECREF(nodes);
        Py_XDECREF(lengths);
    }
    free(levels);
    free(found.left.values);
    PyBuffer_Release(&table);
    PyBuffer_Release(&tokens);
    return answer;
}

static PyMethodDef tree_methods[] = {
    {"runs", tree_runs, METH_VARARGS,
     "runs(table, tokens): mark the tokens inside a class; how many nodes are, the most characters of a token, and the "
     "nodes at which the class is left, with the characters before each, as int32."},
    {"walk", (PyCFunction)(void (*)(void))tree_walk, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk(states, state, out): set the bits of the tokens that may come next."},
    {"walk_after", (PyCFunction)(void (*)(void))tree_walk_after, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "walk_after(states, nodes, lengths, starts, least, most, skip, state, out): the same for what is below the nodes, "
     "by byte, that are left to in `state` after least..most characters."},
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
