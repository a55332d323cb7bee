// SPDX-License-Identifier: Apache-2.0
// What is still to be read: (expression, continuation after it), hash-consed, with 0 for the end; and the items
// with which each may begin, as `Automaton._closure` finds them.

#include "native.h"

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
int32_t then(Continuations *self, int32_t expression, int32_t rest) {
    if (self->slot_count) {
        int32_t known = self->slots[slot_of(self, expression, rest)];
        if (known) return known;
    }
    if (2 * self->count >= self->slot_count && more_slots(self) < 0) return -1;
    if (self->count == self->capacity) {
        Continuation *grown = realloc(self->all, 2 * (size_t)self->capacity * sizeof(Continuation));
        if (grown == NULL || self->capacity > INT32_MAX / 4) {
            if (grown != NULL) self->all = grown;
            PyErr_NoMemory();
            return -1;
        }
        self->all = grown;
        self->capacity *= 2;
    }
    int32_t number = (int32_t)self->count++;
    self->slots[slot_of(self, expression, rest)] = number;
    self->all[number] = (Continuation){NULL, 0, expression, rest};
    return number;
}

static int follow(Continuations *self, Numbers *pending, int32_t expression, int32_t rest) {
    int32_t number = then(self, expression, rest);
    return number < 0 ? -1 : push(pending, number);
}

// What is left of a continuation that begins with a repetition after one time, or -1 with an exception.
int32_t once_less(Continuations *self, int32_t continuation) {
    int32_t expression = self->all[continuation].expression, rest = self->all[continuation].rest;
    if (describe(self, expression) < 0) return -1;
    const Expression node = self->expressions[expression];
    if (node.kind != REPEAT) return 0;
    return node.numbers[2] == EMPTY ? rest : then(self, node.numbers[2], rest);
}

static const int32_t *member(const int32_t *numbers, int32_t place) { return numbers + MEMBERS + OF_MEMBER * place; }

static int32_t point(const int32_t *numbers, int32_t place, int kind) {
    return numbers[FIRST] + POINTS + OF_MEMBER * place + kind - KEYS;
}

// The member from `place` on that must be there; how many there are if there is none.
static int32_t next_required(const int32_t *numbers, int32_t place) {
    while (place < numbers[COUNT] && !member(numbers, place)[IS_REQUIRED]) place++;
    return place;
}

static int push_keys(Continuations *self, const int32_t *numbers, int32_t place, int32_t rest, Numbers *items) {
    for (int32_t last = next_required(numbers, place); place < numbers[COUNT] && place <= last; place++) {
        int32_t after = then(self, point(numbers, place, VALUE), rest);
        if (after < 0 || push(items, (int64_t)member(numbers, place)[HEAD_OF] << 32 | after) < 0) return -1;
    }
    return 0;
}

// One step from a continuation.
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
        case OPTIONS:
            for (int32_t i = 0; i < node.count && !failed; i++)
                failed = numbers[i] == EMPTY ? push(pending, rest) : follow(self, pending, numbers[i], rest);
            return failed;
        case REPEAT: {  // body, may it be left out, what is left of the repetition after one time; least and most
            int32_t after = numbers[2] == EMPTY ? rest : then(self, numbers[2], rest);
            if (after < 0 || follow(self, pending, numbers[0], after) < 0) return -1;
            return numbers[1] ? push(pending, rest) : 0;
        }
        case WORDS:  // what follows the word that ends here, or -1; then heads, each with what follows it
            if (numbers[0] >= 0 && follow(self, pending, numbers[0], rest) < 0) return -1;
            for (int32_t i = 1; i < node.count && !failed; i += 2) {
                int32_t after = numbers[i + 1] == EMPTY ? rest : then(self, numbers[i + 1], rest);
                failed = after < 0 ? -1 : push(items, (int64_t)numbers[i] << 32 | after);
            }
            return failed;
        case LISTED:
            if (next_required(numbers, 0) == numbers[COUNT]) {
                int32_t more = numbers[OTHERS] ? then(self, numbers[FIRST] + REST_OF_LIST, rest) : 0;
                if (more < 0 || (more && follow(self, pending, numbers[FIRST] + ANOTHER, more) < 0)) return -1;
                failed = follow(self, pending, numbers[ALONE], rest);
            }
            return failed ? failed : push_keys(self, numbers, 0, rest, items);
        case LATER: {
            int32_t more = numbers[OTHERS] ? then(self, numbers[FIRST] + REST_OF_LIST, rest) : 0;
            if (more > 0) more = then(self, numbers[FIRST] + ANOTHER, more);
            if (more < 0 || (more && follow(self, pending, numbers[COMMA], more) < 0)) return -1;
            return follow(self, pending, numbers[CLOSE], rest);
        }
        case KEYS:
            return push_keys(self, numbers, node.count, rest, items);
        case VALUE:
            rest = then(self, point(numbers, node.count, AFTER), rest);
            if (rest >= 0) rest = then(self, member(numbers, node.count)[VALUE_OF], rest);
            return rest < 0 ? -1 : follow(self, pending, numbers[COLON], rest);
        case AFTER: {
            int32_t next = node.count + 1;
            if (next_required(numbers, next) == numbers[COUNT] && follow(self, pending, numbers[FIRST] + REST_OF_LIST, rest) < 0) return -1;
            if (next == numbers[COUNT]) return 0;
            int32_t keys = then(self, point(numbers, next, KEYS), rest);
            return keys < 0 ? -1 : follow(self, pending, numbers[COMMA], keys);
        }
        default:  // PRODUCT: both, or `left` and never `right`? left, right
            if (self->states == NULL) {
                PyErr_SetString(PyExc_ValueError, "products are read by states, and there are none");
                return -1;
            }
            failed = push_product_of(self->states, numbers[0], numbers[1], numbers[2], rest, items);
            return failed > 0 ? push(pending, rest) : failed;
    }
}

// The items of a continuation, in order.
static int keep_items(Continuations *self, int32_t continuation, const int64_t *items, Py_ssize_t count) {
    int64_t *exact = lasting(&self->blocks, (size_t)count * sizeof(int64_t));
    if (exact == NULL) return -1;
    if (count) memcpy(exact, items, (size_t)count * sizeof(int64_t));
    self->all[continuation].items = exact;
    self->all[continuation].count = (int32_t)count;
    return 0;
}

// For a repetition of a character that may be left out: its items are one more than those of what comes after it, of
// which there may be many, and which many such repetitions stand before. As `find_items`; 2: it is no such one.
static int find_optional(Continuations *self, int32_t continuation) {
    int32_t rest = self->all[continuation].rest;
    const Expression *repeat = described(self, self->all[continuation].expression);
    if (repeat == NULL || repeat->kind != REPEAT || !repeat->numbers[1]) return 2;
    const Expression *body = described(self, repeat->numbers[0]), *next = described(self, self->all[rest].expression);
    if (body == NULL || body->kind != CHARACTER) return 2;
    const int32_t *numbers = repeat->numbers;  // they stay, descriptions may move
    int64_t head = body->numbers[0];
    if (self->all[rest].items == NULL) {
        if (next == NULL || next->kind == REPEAT) return 2;  // one after another would be found one inside another
        if (find_items(self, rest) < 0) return -1;
    }
    int32_t after = numbers[2] == EMPTY ? rest : then(self, numbers[2], rest);
    if (after < 0) return -1;
    const Continuation known = self->all[rest];
    Numbers items = {0};
    int failed = push(&items, head << 32 | after);
    for (int32_t i = 0; i < known.count && !failed; i++) failed = push(&items, known.items[i]);
    if (!failed) {
        sort_distinct(&items);
        failed = keep_items(self, continuation, items.values, items.count);
    }
    free(items.values);
    return failed;
}

// What a continuation may begin with, into `items`.
static int gather(Continuations *self, int32_t continuation, Numbers *items) {
    Numbers pending = {0}, seen = {0};
    int outcome = push(&pending, continuation) < 0 || add(&seen, continuation) < 0 ? -1 : 0;
    while (outcome == 0 && pending.count) {
        int32_t current = (int32_t)pending.values[--pending.count];
        const Continuation *known = &self->all[current];
        if (known->items != NULL) {
            for (int32_t i = 0; i < known->count && outcome == 0; i++) outcome = push(items, known->items[i]);
            continue;
        }
        int32_t expression = known->expression, rest = known->rest;
        Py_ssize_t before = pending.count;
        if (describe(self, expression) < 0) {
            outcome = -1;
        } else {
            outcome = expand(self, expression, rest, &pending, items);
        }
        Py_ssize_t kept = before;
        for (Py_ssize_t i = before; outcome == 0 && i < pending.count; i++) {
            if (contains(&seen, pending.values[i])) continue;
            outcome = add(&seen, pending.values[i]);
            pending.values[kept++] = pending.values[i];
        }
        pending.count = kept;
        if (outcome == 0 && (++self->steps % 64 == 0 || seen.count + items->count > 64)) {  // limits of size and of time
            PyObject *none = ask(self->check, seen.count + items->count);
            if (none == NULL) outcome = -1;
            Py_XDECREF(none);
        }
    }
    free(pending.values);
    free(seen.values);
    return outcome;
}

// `all[continuation].items` is known then.
int find_items(Continuations *self, int32_t continuation) {
    if (self->all[continuation].items != NULL) return 0;
    const Expression *node = described(self, self->all[continuation].expression);
    if (node != NULL && node->kind == CHARACTER) {  // most of them
        int64_t item = (int64_t)node->numbers[0] << 32 | self->all[continuation].rest;
        return keep_items(self, continuation, &item, 1);
    }
    int outcome = find_optional(self, continuation);
    if (outcome != 2) return outcome;
    Numbers items = {0};
    outcome = gather(self, continuation, &items);
    if (outcome == 0) {
        sort_distinct(&items);
        outcome = keep_items(self, continuation, items.values, items.count);
    }
    free(items.values);
    return outcome;
}

int continuation_of(const Continuations *self, long long number, int32_t *continuation) {
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
    if (find_items(self, continuation) < 0) return NULL;
    return tuple_of(self->all[continuation].items, self->all[continuation].count);
}

static Py_ssize_t continuations_length(PyObject *object) { return ((Continuations *)object)->count; }

static PyObject *continuations_item(PyObject *object, Py_ssize_t number) {
    const Continuations *self = (Continuations *)object;
    int32_t continuation;
    if (continuation_of(self, number, &continuation) < 0) return NULL;
    return Py_BuildValue("ii", (int)self->all[continuation].expression, (int)self->all[continuation].rest);
}

static PyObject *continuations_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *describing, *checking;
    static char *names[] = {"describe", "check", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Continuations", names, &describing, &checking)) return NULL;
    if (!PyCallable_Check(describing) || !PyCallable_Check(checking)) {
        PyErr_SetString(PyExc_TypeError, "describe and check must be callable");
        return NULL;
    }
    Continuations *self = (Continuations *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) return NULL;
    self->describe = Py_NewRef(describing);
    self->check = Py_NewRef(checking);
    self->all = malloc(64 * sizeof(Continuation));
    int64_t *end_items = lasting(&self->blocks, sizeof(int64_t));
    if (self->all == NULL || end_items == NULL) {
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
    return 0;
}

static int continuations_forget(PyObject *object) {
    Continuations *self = (Continuations *)object;
    Py_CLEAR(self->describe);
    Py_CLEAR(self->check);
    return 0;
}

static void continuations_dealloc(PyObject *object) {
    Continuations *self = (Continuations *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    continuations_forget(object);
    blocks_drop(&self->blocks);
    free(self->all);
    free(self->expressions);
    free(self->slots);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef continuations_methods[] = {
    {"then", continuations_then, METH_VARARGS, "then(expression, rest): the number of a continuation."},
    {"closure", continuations_closure, METH_O, "closure(continuation): the items it may begin with."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot continuations_slots[] = {
    {Py_tp_doc, "Continuations(describe, check): a sequence of (expression, rest), the end first; and their items."},
    {Py_tp_new, continuations_new},
    {Py_tp_dealloc, continuations_dealloc},
    {Py_tp_traverse, continuations_traverse},
    {Py_tp_clear, continuations_forget},
    {Py_tp_methods, continuations_methods},
    {Py_sq_length, continuations_length},
    {Py_sq_item, continuations_item},
    {0, NULL},
};
PyType_Spec continuations_spec = {"sgl_constrain._native.Continuations", sizeof(Continuations), 0,
                                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, continuations_slots};
