// SPDX-License-Identifier: Apache-2.0
// States: what can be read next, as a sorted sequence of items; and the states after them, made one at a time when
// they are first needed. Where a limit is near Python is asked whether one more state is admitted.

#include "native.h"

#include <time.h>

#define FEW_ITEMS 64  // of a state, up to which it is within any limit

// -- sets of bytes ----------------------------------------------------------------------------------------------

static PyObject *number_of(const Bytes *bytes) {
    int top = 3;
    while (top > 0 && !bytes->words[top]) top--;
    PyObject *number = PyLong_FromUnsignedLongLong(bytes->words[top]);
    while (number != NULL && top-- > 0) {
        PyObject *width = PyLong_FromLong(64), *low = PyLong_FromUnsignedLongLong(bytes->words[top]);
        PyObject *high = width == NULL || low == NULL ? NULL : PyNumber_Lshift(number, width);
        Py_DECREF(number);
        number = high == NULL ? NULL : PyNumber_Or(high, low);
        Py_XDECREF(width);
        Py_XDECREF(low);
        Py_XDECREF(high);
    }
    return number;
}

static int set_of(PyObject *number, Bytes *bytes) {
    for (int w = 0; w < 4; w++) {
        PyObject *width = PyLong_FromLong(64 * w);
        PyObject *low = width == NULL ? NULL : PyNumber_Rshift(number, width);
        bytes->words[w] = low == NULL ? 0 : PyLong_AsUnsignedLongLongMask(low);
        Py_XDECREF(width);
        Py_XDECREF(low);
        if (PyErr_Occurred()) return -1;
    }
    return 0;
}

// -- states -----------------------------------------------------------------------------------------------------

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// Asks Python whether one more state may be added, of `count` items, where a limit is near.
static int admit(States *self, Py_ssize_t count) {
    if (count < FEW_ITEMS && self->items.count < self->most_states && self->held + count <= self->most_held &&
        seconds_now() < self->deadline)
        return 0;
    PyObject *none = PyObject_CallFunction(self->ask[ADMIT], "nn", count, self->held + count);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

static int check_items(const States *self, const Numbers *items) {
    for (Py_ssize_t i = 0; i < items->count; i++) {
        int64_t item = items->values[i];
        if (item < 0 || (item & REST) >= self->continuations->count) {
            PyErr_Format(PyExc_ValueError, "%lld is no item", (long long)item);
            return -1;
        }
    }
    return 0;
}

// The number of the state with these items, or -1 with an exception. They are put in order, and may become fewer.
int32_t number(States *self, Numbers *items) {
    if (check_items(self, items) < 0) return -1;
    sort_distinct(items);
    if (items->count > 1 && (uncover(self, items) < 0 || check_items(self, items) < 0)) return -1;
    int32_t state = pool_find(&self->items, items->values, items->count);
    if (state >= 0) return state;
    if (admit(self, items->count) < 0) return -1;
    Opened *more = grown(self->opened, &self->opened_count, self->items.count + 1, sizeof(Opened));
    if (more == NULL) return -1;
    self->opened = more;
    PyObject **moves = grown(self->moves, &self->move_count, self->items.count + 1, sizeof(PyObject *));
    if (moves == NULL) return -1;
    self->moves = moves;
    if (self->items.count >= MOST_STATES) {
        PyErr_SetString(PyExc_OverflowError, "there are too many states");
        return -1;
    }
    Py_ssize_t before = self->items.count;
    state = pool_add(&self->items, items->values, items->count);
    if (self->items.count > before) self->held += items->count;
    return state;
}

int push_items(States *self, int32_t continuation, Numbers *items) {
    int failed = find_items(self->continuations, continuation);
    if (failed) return failed;
    const Continuation known = self->continuations->all[continuation];
    for (int32_t i = 0; i < known.count && !failed; i++) failed = push(items, known.items[i]);
    return failed;
}

// The items after edges that were taken, each with the continuation after it.
static int items_after(States *self, const Numbers *taken, Numbers *items) {
    for (Py_ssize_t i = 0; i < taken->count; i++) {
        uint64_t code = (uint64_t)taken->values[i];
        int64_t rest = (int64_t)(code & REST), head = (int64_t)(code >> 33);
        int failed = 0;
        if (head >= PRODUCTS) {
            failed = push_product(self, head, (int32_t)rest, items);
        } else if (head) {
            failed = push(items, head << 32 | rest);
        }
        if (!failed && code >> 32 & 1) failed = push_items(self, (int32_t)rest, items);
        if (failed) return -1;
    }
    return 0;
}

static int remember(States *self, const Numbers *taken, int32_t target) {
    if (self->taken.count > self->most_states) pool_drop(&self->taken);
    int32_t *more = grown(self->targets, &self->target_count, self->taken.count + 1, sizeof(int32_t));
    if (more == NULL) return -1;
    self->targets = more;
    int32_t place = pool_add(&self->taken, taken->values, taken->count);
    if (place < 0) return -1;
    self->targets[place] = target;
    return 0;
}

// Lists for a moment, which keep their memory.
static Numbers borrow(States *self) {
    if (!self->spare_count) return (Numbers){0};
    Numbers numbers = self->spare[--self->spare_count];
    numbers.count = 0;
    return numbers;
}

static void give_back(States *self, Numbers *numbers) {
    if (self->spare_count < SPARE && numbers->capacity <= MOST_SPARE) self->spare[self->spare_count++] = *numbers;
    else free(numbers->values);
}

// The state after a byte in a part of a state's plan; -1 with an exception.
int32_t make_target(States *self, int32_t state, int32_t part) {
    const Plan *plan = self->opened[state].plan;
    int32_t target = self->opened[state].targets[part];
    if (target != UNMADE) return target;
    const Sequence *read = &self->items.all[state];
    int32_t first = read->values[0] == ACCEPT;
    Numbers taken = borrow(self), items = borrow(self);
    for (int32_t i = 0; i < plan->parts[part].count; i++) {
        const Taken *edge = &plan->taken[plan->parts[part].first + i];
        int64_t item = read->values[first + edge->place];
        uint64_t code = edge->code == NEXT_HEAD ? (uint64_t)((item >> 32) + 1) << 33 : edge->code;
        if (push(&taken, (int64_t)(code | ((uint64_t)item & REST))) < 0) goto done;
    }
    int32_t place = pool_find(&self->taken, taken.values, taken.count);
    if (place >= 0) {
        target = self->targets[place];
    } else if (items_after(self, &taken, &items) == 0 && (target = number(self, &items)) >= 0 &&
               remember(self, &taken, target) < 0) {
        target = -1;
    }
    if (target >= 0) self->opened[state].targets[part] = target;
done:
    give_back(self, &taken);
    give_back(self, &items);
    return target;
}

// -- what Python may ask ----------------------------------------------------------------------------------------

int given_state(States *self, PyObject *given, int32_t *state) {
    long value = PyLong_AsLong(given);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value < 0 || value >= self->items.count) {
        PyErr_Format(PyExc_ValueError, "%ld is no state", value);
        return -1;
    }
    *state = (int32_t)value;
    return 0;
}

static int opened_state(States *self, PyObject *given, int32_t *state) {
    return given_state(self, given, state) < 0 ? -1 : know_plan(self, *state);
}

static PyObject *states_number(PyObject *object, PyObject *given) {
    Numbers items = {0};
    int32_t state = push_all(&items, given) < 0 ? -1 : number((States *)object, &items);
    free(items.values);
    return state < 0 ? NULL : PyLong_FromLong(state);
}

static PyObject *states_step(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    States *self = (States *)object;
    int32_t state;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "step(state, byte) takes 2 arguments");
    long byte = PyLong_AsLong(args[1]);
    if (byte == -1 && PyErr_Occurred()) return NULL;
    if (byte < 0 || byte > 255) return PyErr_Format(PyExc_ValueError, "%ld is no byte", byte);
    if (opened_state(self, args[0], &state) < 0) return NULL;
    int32_t part = self->opened[state].plan->part_of[byte];
    int32_t target = part < 0 ? DEAD : make_target(self, state, part);
    return target < 0 ? NULL : PyLong_FromLong(target);
}

static PyObject *states_begins(PyObject *object, PyObject *argument) {
    States *self = (States *)object;
    int32_t state;
    if (opened_state(self, argument, &state) < 0) return NULL;
    return number_of(&self->opened[state].plan->begins);
}

// Disjoint `sets` of bytes and the states after them, for those bytes `among` a set that do not lead to DEAD: how many,
// 256 at most, or -1 with an exception. The state is open.
int32_t find_moves(States *self, int32_t state, const Bytes *among, int32_t *targets, Bytes *sets) {
    const Opened opened = self->opened[state];
    int32_t count = 0;
    for (int32_t part = 0; part < opened.plan->count; part++) {
        Bytes set = opened.plan->parts[part].bytes;
        for (int w = 0; w < 4; w++) set.words[w] &= among->words[w];
        if (first_in(&set, 0) == 256) continue;
        int32_t target = target_of(self, state, &opened, part), place = 0;
        if (target < 0) return -1;
        if (target == DEAD) continue;
        while (place < count && targets[place] != target) place++;
        if (place == count) {
            targets[count] = target;
            sets[count++] = (Bytes){{0}};
        }
        for (int w = 0; w < 4; w++) sets[place].words[w] |= set.words[w];
    }
    return count;
}

static PyObject *moves_among(States *self, int32_t state, const Bytes *among) {
    int32_t targets[256];
    Bytes sets[256];
    int32_t count = find_moves(self, state, among, targets, sets);
    PyObject *moves = count < 0 ? NULL : PyTuple_New(count);
    for (int32_t i = 0; moves != NULL && i < count; i++) {
        PyObject *set = number_of(&sets[i]);
        PyObject *move = set == NULL ? NULL : Py_BuildValue("Ni", set, (int)targets[i]);
        if (move == NULL || PyTuple_SetItem(moves, i, move) < 0) Py_CLEAR(moves);
    }
    return moves;
}

static PyObject *states_moves(PyObject *object, PyObject *argument) {
    States *self = (States *)object;
    static const Bytes all = {{~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0}};
    int32_t state;
    if (opened_state(self, argument, &state) < 0) return NULL;
    if (self->moves[state] == NULL) {
        PyObject *moves = moves_among(self, state, &all);
        if (moves == NULL) return NULL;
        if (self->moves[state] == NULL) self->moves[state] = moves;
        else Py_DECREF(moves);
    }
    return Py_NewRef(self->moves[state]);
}

static PyObject *states_moves_on(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    States *self = (States *)object;
    int32_t state;
    Bytes among;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "moves_on(state, among) takes 2 arguments");
    if (set_of(args[1], &among) < 0 || opened_state(self, args[0], &state) < 0) return NULL;
    return moves_among(self, state, &among);
}

static PyObject *states_start_clock(PyObject *object, PyObject *given) {
    double seconds = PyFloat_AsDouble(given);
    if (seconds == -1 && PyErr_Occurred()) return NULL;
    ((States *)object)->deadline = seconds_now() + seconds;
    Py_RETURN_NONE;
}

static PyObject *states_held(PyObject *object, PyObject *ignored) {
    (void)ignored;
    return PyLong_FromSsize_t(((States *)object)->held);
}

int accepts(const States *self, int32_t state) {
    const Sequence *items = &self->items.all[state];
    return state == DONE || (items->count && items->values[0] == ACCEPT);
}

static PyObject *states_accepts(PyObject *object, PyObject *argument) {
    int32_t state;
    if (given_state((States *)object, argument, &state) < 0) return NULL;
    return PyBool_FromLong(accepts((States *)object, state));
}

static Py_ssize_t states_length(PyObject *object) { return ((States *)object)->items.count; }

static PyObject *states_item(PyObject *object, Py_ssize_t state) {
    static const int64_t end = ACCEPT;
    const Pool *items = &((States *)object)->items;
    if (state < 0 || state >= items->count) return PyErr_Format(PyExc_IndexError, "%zd is no state", state);
    return state == DONE ? tuple_of(&end, 1) : tuple_of(items->all[state].values, items->all[state].count);
}

static PyObject *states_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *continuations, *ask[QUESTIONS];
    Py_ssize_t most_states, most_held;
    static char *names[] = {"continuations", "edges", "counts", "widest",
                            "admit", "shortest", "distance", "uncounted", "most_states", "most_held", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOOOOnn:States", names, &continuations, &ask[EDGES], &ask[COUNTS], &ask[WIDEST], &ask[ADMIT],
                                     &ask[SHORTEST], &ask[DISTANCE], &ask[UNCOUNTED], &most_states, &most_held))
        return NULL;
    int callable = 1;
    for (int i = 0; i < QUESTIONS; i++) callable &= PyCallable_Check(ask[i]);
    Types *types = PyType_GetModuleState(type);
    if (types == NULL) return NULL;
    if (!callable || !PyObject_TypeCheck(continuations, types->continuations)) {
        PyErr_SetString(PyExc_TypeError, "States takes Continuations and callables");
        return NULL;
    }
    States *self = (States *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) return NULL;
    self->continuations = (Continuations *)Py_NewRef(continuations);
    for (int i = 0; i < QUESTIONS; i++) self->ask[i] = Py_NewRef(ask[i]);
    if (self->continuations->states == NULL) self->continuations->states = self;
    self->most_states = most_states;
    self->most_held = most_held;
    self->everything = -1;
    self->opened = grown(NULL, &self->opened_count, 2, sizeof(Opened));
    self->moves = grown(NULL, &self->move_count, 2, sizeof(PyObject *));
    int64_t no_item = -1;  // so that DONE is not found by its items
    if (self->opened == NULL || self->moves == NULL || pool_add(&self->items, NULL, 0) < 0 || pool_add(&self->items, &no_item, 1) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int states_traverse(PyObject *object, visitproc visit, void *arg) {
    States *self = (States *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->continuations);
    for (int i = 0; i < QUESTIONS; i++) Py_VISIT(self->ask[i]);
    return 0;
}

// No tp_clear: a cycle goes through an object of Python, which has one.
static void states_dealloc(PyObject *object) {
    States *self = (States *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->continuations != NULL && self->continuations->states == self) self->continuations->states = NULL;
    Py_CLEAR(self->continuations);
    for (int i = 0; i < QUESTIONS; i++) Py_CLEAR(self->ask[i]);
    for (Py_ssize_t i = 0; i < self->items.count; i++) Py_XDECREF(self->moves[i]);
    blocks_drop(&self->blocks);
    for (Py_ssize_t i = 0; i < self->known.count; i++) free(self->edges[i].all);
    free(self->opened);
    free(self->moves);
    free(self->plans);
    free(self->targets);
    free(self->edges);
    free(self->texts);
    while (self->spare_count) free(self->spare[--self->spare_count].values);
    free(self->shapes);
    free(self->repetitions);
    free(self->distances);
    free(self->lengths);
    free(self->uncounted);
    pool_drop(&self->products);
    pool_drop(&self->items);
    pool_drop(&self->heads);
    pool_drop(&self->taken);
    pool_drop(&self->known);
    pool_drop(&self->skeletons);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef states_methods[] = {
    {"number", states_number, METH_O, "number(items): of the state with these items."},
    {"step", (PyCFunction)(void (*)(void))states_step, METH_FASTCALL, "step(state, byte): the state after it."},
    {"accepts", states_accepts, METH_O, "accepts(state): may the text end?"},
    {"begins", states_begins, METH_O, "begins(state): the set of bytes that edges take."},
    {"moves", states_moves, METH_O, "moves(state): disjoint (set of bytes, state after them)."},
    {"moves_on", (PyCFunction)(void (*)(void))states_moves_on, METH_FASTCALL,
     "moves_on(state, among): the same for those bytes that are among a set."},
    {"product", states_product, METH_O, "product(head): (both, left, right)."},
    {"product_head", states_product_head, METH_VARARGS, "product_head(both, left, right)."},
    {"is_live", states_is_live, METH_O, "is_live(head): can the product finish after at least one more byte?"},
    {"farthest", states_farthest, METH_NOARGS, "farthest(): the most bytes that a product needed to finish."},
    {"everything", states_everything, METH_O, "everything(state): it reads any text."},
    {"unbounded", (PyCFunction)(void (*)(void))states_unbounded, METH_FASTCALL,
     "unbounded(state, most): a state that does not count beyond `most`; None where there are products."},
    {"start_clock", states_start_clock, METH_O, "start_clock(seconds): for so long states are admitted without a question."},
    {"held", states_held, METH_NOARGS, "held(): how many items all states have together."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot states_slots[] = {
    {Py_tp_doc, "States(continuations, edges, counts, widest, admit, shortest, distance, uncounted, most_states, "
                "most_held): a sequence of the items of states, by number."},
    {Py_tp_new, states_new},
    {Py_tp_dealloc, states_dealloc},
    {Py_tp_traverse, states_traverse},
    {Py_tp_methods, states_methods},
    {Py_sq_length, states_length},
    {Py_sq_item, states_item},
    {0, NULL},
};
PyType_Spec states_spec = {"sgl_constrain._native.States", sizeof(States), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, states_slots};
