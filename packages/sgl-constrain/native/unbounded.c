// SPDX-License-Identifier: Apache-2.0
// States that no longer count repetitions beyond some number, as `Automaton.unbounded` has it: many become one.

#include "native.h"

// As what a continuation reads up to `uncounted_from` bytes of, or -1 with an exception.
static int32_t unbind(States *self, int32_t continuation) {
    Numbers path = {0};
    int failed = 0;
    int32_t most = self->uncounted_from, rest = 0;
    for (int32_t at = continuation; !failed && at; at = self->continuations->all[at].rest) {
        if (at < self->uncounted_count && self->uncounted[at]) {
            rest = self->uncounted[at];
            break;
        }
        failed = push(&path, at);
    }
    while (!failed && path.count) {
        int32_t at = (int32_t)path.values[--path.count], expression = self->continuations->all[at].expression;
        Repetition found;
        failed = counts_of(self, expression, &found) < 0;
        if (!failed && found.body >= 0 && (found.count.most > most || found.count.least > most)) {
            PyObject *answer = PyObject_CallFunction(self->ask[UNCOUNTED], "ii", (int)expression, (int)most);
            long simpler = answer == NULL ? -1 : PyLong_AsLong(answer);
            Py_XDECREF(answer);
            failed = simpler < 0 || simpler > INT32_MAX;
            if (failed && !PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%ld is no expression", simpler);
            expression = (int32_t)simpler;
        }
        if (failed || (rest = then(self->continuations, expression, rest)) < 0) failed = 1;
        int32_t *more = failed ? NULL : grown(self->uncounted, &self->uncounted_count, self->continuations->count, sizeof(int32_t));
        if (more == NULL) failed = 1;
        else (self->uncounted = more)[at] = rest;
    }
    free(path.values);
    return failed ? -1 : rest;
}

#define LARGE_COUNT 100  // as of `Automaton.relaxed`

// Does a state read none of what Python would take off first: products, and repetitions with large counts? -1: an
// exception.
static int counts_little(States *self, int32_t state) {
    const Sequence items = self->items.all[state];
    for (int32_t i = 0; i < items.count && state != DONE; i++) {
        if (items.values[i] >> 32 >= PRODUCTS) return 0;
        for (int32_t at = (int32_t)(items.values[i] & REST); at; at = self->continuations->all[at].rest) {
            Repetition found;
            if (counts_of(self, self->continuations->all[at].expression, &found) < 0) return -1;
            if (found.body >= 0 && found.count.most >= LARGE_COUNT) return 0;
        }
    }
    return 1;
}

PyObject *states_unbounded(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    States *self = (States *)object;
    int32_t state;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "unbounded(state, most) takes 2 arguments");
    long most = PyLong_AsLong(args[1]);
    if (most == -1 && PyErr_Occurred()) return NULL;
    if (most < 0 || most > INT32_MAX) return PyErr_Format(PyExc_ValueError, "%ld is no number of bytes", most);
    if (given_state(self, args[0], &state) < 0) return NULL;
    const Sequence items = self->items.all[state];
    if (state == DONE) return PyLong_FromLong(state);
    for (int32_t i = items.count - 1; i >= 0 && items.values[i] >> 32 >= PRODUCTS; i--) {
        int32_t left, right;
        int without = is_without(self, items.values[i] >> 32, &left, &right), little = counts_little(self, left);
        if (little > 0 && !without) little = counts_little(self, right);
        if (little < 0) return NULL;
        if (!little) Py_RETURN_NONE;
    }
    if (most != self->uncounted_from && self->uncounted_count)
        memset(self->uncounted, 0, (size_t)self->uncounted_count * sizeof(int32_t));
    self->uncounted_from = (int32_t)most;
    Numbers simpler = {0};
    int failed = 0, same = 1;
    for (int32_t i = 0; i < items.count && !failed; i++) {
        int32_t rest = unbind(self, (int32_t)(items.values[i] & REST));
        int64_t item = items.values[i] >> 32 << 32 | (rest < 0 ? 0 : rest);
        same &= item == items.values[i];
        failed = rest < 0 || push(&simpler, item) < 0;
    }
    if (!failed && !same) failed = (state = number(self, &simpler)) < 0;
    free(simpler.values);
    return failed ? NULL : PyLong_FromLong(state);
}
