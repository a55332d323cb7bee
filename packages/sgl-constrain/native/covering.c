// SPDX-License-Identifier: Apache-2.0
// Items that another one makes superfluous, alike but for wider counts, as `covering` has it. Python is asked for the
// counts of a repetition that was not described, and for what is left of more than two items alike.

#include "native.h"

#define COUNTS_COMPARED 8  // counts further out in a continuation must be equal for items to be compared
#define OPAQUE_SKELETON 0  // stands for a whole continuation in a skeleton

// A repetition's body and counts, or -1 for other expressions; those with larger counts are not compared.
int counts_of(States *self, int32_t expression, Repetition *found) {
    if (told_counts(self->continuations, expression, found)) return 0;
    if (expression < self->repetition_count && self->repetitions[expression].body != -2) {
        *found = self->repetitions[expression];
        return 0;
    }
    PyObject *answer = ask(self->ask[COUNTS], expression);
    if (answer == NULL) return -1;
    Numbers numbers = {0};
    int failed = push_all(&numbers, answer);
    Py_DECREF(answer);
    *found = (Repetition){-1, {0, 0}};
    if (!failed && numbers.count) {
        const int64_t *given = numbers.values;
        if (numbers.count != 3 || given[0] < 0 || given[0] > INT32_MAX || given[1] < 0 || given[1] > INT32_MAX ||
            given[2] < -1 || given[2] > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "counts must be a body, the least and the most");
            failed = -1;
        } else {
            *found = (Repetition){(int32_t)given[0], {(int32_t)given[1], (int32_t)given[2]}};
        }
    }
    free(numbers.values);
    if (failed) return -1;
    Py_ssize_t before = self->repetition_count;
    Repetition *more = grown(self->repetitions, &self->repetition_count, expression + 1, sizeof(Repetition));
    if (more == NULL) return -1;
    self->repetitions = more;
    for (Py_ssize_t i = before; i < self->repetition_count; i++) more[i].body = -2;
    more[expression] = *found;
    return 0;
}

static int32_t skeleton(States *self, int64_t first, int64_t rest) {
    int64_t pair[2] = {first, rest};
    int32_t number = pool_add(&self->skeletons, pair, 2);
    return number < 0 ? -1 : number + 1;  // 0 is the end's
}

// The shape of `current`, when that of the continuation after it is known.
static int find_shape(States *self, int32_t current) {
    const Continuation here = self->continuations->all[current];
    Repetition repetition;
    if (counts_of(self, here.expression, &repetition) < 0) return -1;
    Shape shape = self->shapes[here.rest];
    if (shape.count == COUNTS_COMPARED) {
        shape.skeleton = skeleton(self, OPAQUE_SKELETON, here.rest);
        shape.count = 0;
    }
    int repeats = repetition.body >= 0;
    // Negative numbers are the skeletons of repetitions, so they do not meet expressions.
    int32_t whole = shape.skeleton < 0 ? -1 : skeleton(self, repeats ? -1 - repetition.body : here.expression, shape.skeleton);
    Count *counts = whole < 0 || shape.count + repeats == 0 ? NULL : lasting(&self->blocks, (size_t)(shape.count + 1) * sizeof(Count));
    if (whole < 0) return -1;
    if (counts == NULL && shape.count + repeats) return -1;
    if (repeats) counts[0] = repetition.count;
    if (shape.count) memcpy(counts + repeats, shape.counts, (size_t)shape.count * sizeof(Count));
    if (self->shapes[current].skeleton < 0)  // else it was found meanwhile
        self->shapes[current] = (Shape){whole, shape.count + repeats, counts};
    return 0;
}

static int know_shape(States *self, int32_t continuation) {
    if (continuation < self->shape_count && self->shapes[continuation].skeleton >= 0) return 0;
    Py_ssize_t before = self->shape_count;
    Shape *more = grown(self->shapes, &self->shape_count, self->continuations->count, sizeof(Shape));
    if (more == NULL) return -1;
    self->shapes = more;
    for (Py_ssize_t i = before; i < self->shape_count; i++) more[i].skeleton = -1;
    more[0].skeleton = 0;
    Numbers path = {0};
    int failed = 0;
    for (int32_t at = continuation; !failed && self->shapes[at].skeleton < 0; at = self->continuations->all[at].rest)
        failed = push(&path, at);
    while (!failed && path.count) failed = find_shape(self, (int32_t)path.values[--path.count]);
    free(path.values);
    return failed;
}

static int covers(const Shape *wide, const Shape *narrow) {
    for (int32_t i = 0; i < narrow->count; i++) {
        Count w = wide->counts[i], n = narrow->counts[i];
        if (w.least > n.least || (w.most != -1 && (n.most == -1 || n.most > w.most))) return 0;
    }
    return 1;
}

static int keep_widest(States *self, const int64_t *group, Py_ssize_t count, Numbers *kept) {
    if (count == 1) return push(kept, group[0]);
    if (count == 2) {
        const Shape *one = &self->shapes[group[0] & REST], *other = &self->shapes[group[1] & REST];
        int wider = covers(one, other);
        if (!wider && !covers(other, one) && push(kept, group[0]) < 0) return -1;
        return push(kept, group[!wider]);
    }
    PyObject *items = tuple_of(group, count);
    PyObject *widest = items == NULL ? NULL : PyObject_CallFunctionObjArgs(self->ask[WIDEST], items, NULL);
    int failed = widest == NULL || push_all(kept, widest) < 0 ? -1 : 0;
    Py_XDECREF(items);
    Py_XDECREF(widest);
    return failed;
}

typedef struct {
    int64_t item;
    int32_t skeleton;
} Shaped;

static int by_skeleton(const void *a, const void *b) {
    const Shaped *x = a, *y = b;
    if (x->skeleton != y->skeleton) return x->skeleton < y->skeleton ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

// What is left of items with one head.
static int keep_uncovered(States *self, const int64_t *items, Py_ssize_t count, Numbers *kept) {
    for (Py_ssize_t i = 0; i < count; i++)
        if (know_shape(self, (int32_t)(items[i] & REST)) < 0) return -1;
    if (count == 2 && self->shapes[items[0] & REST].skeleton != self->shapes[items[1] & REST].skeleton)
        return push(kept, items[0]) < 0 ? -1 : push(kept, items[1]);
    Shaped *shaped = malloc((size_t)count * sizeof(Shaped));
    int64_t *group = malloc((size_t)count * sizeof(int64_t));
    int failed = shaped == NULL || group == NULL;
    if (failed) PyErr_NoMemory();
    for (Py_ssize_t i = 0; !failed && i < count; i++)
        shaped[i] = (Shaped){items[i], self->shapes[items[i] & REST].skeleton};
    if (!failed) qsort(shaped, (size_t)count, sizeof(Shaped), by_skeleton);
    for (Py_ssize_t from = 0, to; !failed && from < count; from = to) {
        for (to = from; to < count && shaped[to].skeleton == shaped[from].skeleton; to++)
            group[to - from] = shaped[to].item;
        failed = keep_widest(self, group, to - from, kept) < 0;
    }
    free(shaped);
    free(group);
    return failed ? -1 : 0;
}

// Drops items that others make superfluous. items: in order.
int uncover(States *self, Numbers *items) {
    Py_ssize_t alike = 0;
    for (Py_ssize_t i = 1; i < items->count; i++) alike += items->values[i] >> 32 == items->values[i - 1] >> 32;
    if (!alike) return 0;
    Numbers kept = {0};
    int failed = 0;
    for (Py_ssize_t from = 0, to; !failed && from < items->count; from = to) {
        int64_t head = items->values[from] >> 32;
        for (to = from + 1; to < items->count && items->values[to] >> 32 == head; to++) continue;
        failed = to == from + 1 ? push(&kept, items->values[from])
                                : keep_uncovered(self, items->values + from, to - from, &kept);
    }
    free(items->values);
    *items = kept;
    sort_distinct(items);
    return failed ? -1 : 0;
}

