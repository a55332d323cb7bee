// SPDX-License-Identifier: Apache-2.0
// States: what can be read next, as a sorted sequence of items; and the states after them, made one at a time when
// they are first needed. A state's plan says which edges of its items are taken on which bytes.
//
// Python is asked for the edges of a head, the counts of a repetition, for what is left of more than two items that
// differ in counts only, and, where a limit is near, whether one more state is admitted.

#include "native.h"

#include <time.h>

#define UNMADE (-1)         // instead of a target
#define COUNTS_COMPARED 8   // counts further out in a continuation must be equal for items to be compared
#define OPAQUE_SKELETON 0   // stands for a whole continuation in a skeleton
#define FEW_ITEMS 64        // of a state, up to which it is within any limit

// `array` with room for `count` of `size` bytes, where there was room for `*room`; what is new is zero.
void *grown(void *array, Py_ssize_t *room, Py_ssize_t count, size_t size) {
    if (count <= *room) return array;
    Py_ssize_t more = *room ? *room : 32;
    while (more < count) more *= 2;
    char *made = realloc(array, (size_t)more * size);
    if (made == NULL) return PyErr_NoMemory();
    memset(made + (size_t)*room * size, 0, (size_t)(more - *room) * size);
    *room = more;
    return made;
}

// -- sets of bytes ----------------------------------------------------------------------------------------------

static uint64_t little_endian(const unsigned char *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

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

// -- plans ------------------------------------------------------------------------------------------------------

int read_edges(PyObject *packed, Edges *edges) {
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(packed, &bytes, &length) < 0) return -1;
    if (length % 40 != 0 || length > 40 * 256) {
        PyErr_SetString(PyExc_ValueError, "edges must be told in 40 bytes each");
        return -1;
    }
    *edges = (Edges){malloc((size_t)(length / 40 + 1) * sizeof(Edge)), (int32_t)(length / 40)};
    if (edges->all == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int32_t i = 0; i < edges->count; i++) {
        const unsigned char *edge = (const unsigned char *)bytes + 40 * i;
        for (int w = 0; w < 4; w++) edges->all[i].bytes.words[w] = little_endian(edge + 8 * w);
        edges->all[i].code = little_endian(edge + 32) << 32;
    }
    return 0;
}

// Keeps the edges of a head, which become the place's, unless they are known; the place, or -1 with an exception.
static int32_t keep_edges(States *self, int64_t head, Edges *edges) {
    int32_t place = pool_find(&self->known, &head, 1);
    if (place >= 0) return place;
    Edges *more = grown(self->edges, &self->edge_count, self->known.count + 1, sizeof(Edges));
    if (more == NULL) return -1;
    self->edges = more;
    if ((place = pool_add(&self->known, &head, 1)) < 0) return -1;
    self->edges[place] = *edges;
    edges->all = NULL;
    return place;
}

// Keeps those of a text, all of whose bytes are given: each is the only one of a head, and leads to the next head.
static int32_t keep_text(States *self, int64_t head, PyObject *text) {
    int32_t first = -1;
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(text, &bytes, &length) < 0) return -1;
    if (length == 0 || length > PRODUCTS - head) {
        PyErr_Format(PyExc_ValueError, "%lld reads no text", (long long)head);
        return -1;
    }
    for (Py_ssize_t i = length - 1; i >= 0; i--) {
        uint64_t after = i == length - 1 ? 1 : (uint64_t)(head + i + 1) << 1;  // nothing, and it is complete
        Edges edges = {malloc(sizeof(Edge)), 1};
        if (edges.all == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        edges.all[0] = (Edge){{{0}}, after << 32};
        put(&edges.all[0].bytes, (unsigned char)bytes[i]);
        first = keep_edges(self, head + i, &edges);
        free(edges.all);
        if (first < 0) return -1;
    }
    return first;
}

// The place of a head's edges in `edges`, or -1 with an exception.
int32_t edges_of(States *self, int64_t head) {
    int32_t place = pool_find(&self->known, &head, 1);
    if (place >= 0) return place;
    Edges edges = {0};
    int failed = 0;
    if (head >= PRODUCTS) {
        failed = product_edges(self, head, &edges);
    } else {
        PyObject *answer = PyObject_CallFunction(self->ask[EDGES], "L", (long long)head);
        if (answer == NULL) return -1;
        if (is_text(head)) place = keep_text(self, head, answer);
        else failed = read_edges(answer, &edges);
        Py_DECREF(answer);
        if (is_text(head)) return place;
    }
    if (!failed) place = keep_edges(self, head, &edges);  // it may have been asked for meanwhile
    free(edges.all);
    return failed ? -1 : place;
}

// A part while a plan is made: it came of `before` by one more edge that is taken. `into` is the part that the edge
// numbered `edge` cuts out of it.
typedef struct {
    int32_t before, place, length, into;
    int64_t edge;
    uint64_t code;
} Draft;

typedef struct {
    Draft *all;
    Py_ssize_t count, room;
    int32_t part_of[256];  // -1: no edge is taken
} Drafts;

static int cut(Drafts *drafts, const Edge *edge, int32_t place, int64_t number) {
    int32_t fresh = -1;  // of those bytes on which nothing was taken
    for (int b = first_in(&edge->bytes, 0); b < 256; b = first_in(&edge->bytes, b + 1)) {
        int32_t before = drafts->part_of[b];
        int32_t into = before < 0 ? fresh : drafts->all[before].edge == number ? drafts->all[before].into : -1;
        if (into < 0) {
            Draft *more = grown(drafts->all, &drafts->room, drafts->count + 1, sizeof(Draft));
            if (more == NULL) return -1;
            drafts->all = more;
            into = (int32_t)drafts->count++;
            int32_t length = before < 0 ? 1 : more[before].length + 1;
            more[into] = (Draft){before, place, length, -1, -1, edge->code};
            if (before < 0) {
                fresh = into;
            } else {
                more[before].into = into;
                more[before].edge = number;
            }
        }
        drafts->part_of[b] = into;
    }
    return 0;
}

static void plan_free(Plan *plan) {
    if (plan == NULL) return;
    free(plan->parts);
    free(plan->taken);
    free(plan);
}

static Plan *plan_of_drafts(Drafts *drafts) {
    Plan *plan = calloc(1, sizeof(Plan));
    int32_t seen[256];
    size_t taken = 0;
    if (plan == NULL) return (Plan *)PyErr_NoMemory();
    for (int b = 0; b < 256; b++) {
        int32_t draft = drafts->part_of[b];
        plan->part_of[b] = -1;
        if (draft < 0) continue;
        put(&plan->begins, b);
        int32_t part = 0;
        while (part < plan->count && seen[part] != draft) part++;
        if (part == plan->count) {
            seen[plan->count++] = draft;
            taken += (size_t)drafts->all[draft].length;
        }
        plan->part_of[b] = (int16_t)part;
    }
    plan->parts = calloc((size_t)plan->count + 1, sizeof(Part));
    plan->taken = taken < INT32_MAX ? malloc((taken + 1) * sizeof(Taken)) : NULL;
    if (plan->parts == NULL || plan->taken == NULL) {
        plan_free(plan);
        return (Plan *)PyErr_NoMemory();
    }
    int32_t first = 0;
    for (int32_t part = 0; part < plan->count; part++) {
        const Draft *draft = &drafts->all[seen[part]];
        plan->parts[part].first = first;
        plan->parts[part].count = draft->length;
        for (int32_t place = first + draft->length - 1;; place--) {
            plan->taken[place] = (Taken){draft->place, draft->code};
            if (draft->before < 0) break;
            draft = &drafts->all[draft->before];
        }
        first += plan->parts[part].count;
    }
    for (int b = 0; b < 256; b++)
        if (plan->part_of[b] >= 0) put(&plan->parts[plan->part_of[b]].bytes, b);
    return plan;
}

// Of one head: its edges are disjoint.
static Plan *plan_of_edges(const Edges *edges) {
    Plan *plan = calloc(1, sizeof(Plan));
    if (plan == NULL) return (Plan *)PyErr_NoMemory();
    plan->count = edges->count;
    plan->parts = calloc((size_t)plan->count + 1, sizeof(Part));
    plan->taken = malloc(((size_t)plan->count + 1) * sizeof(Taken));
    if (plan->parts == NULL || plan->taken == NULL) {
        plan_free(plan);
        return (Plan *)PyErr_NoMemory();
    }
    memset(plan->part_of, -1, sizeof plan->part_of);
    for (int32_t e = 0; e < edges->count; e++) {
        const Bytes *bytes = &edges->all[e].bytes;
        plan->parts[e] = (Part){*bytes, e, 1};
        plan->taken[e] = (Taken){0, edges->all[e].code};
        for (int b = first_in(bytes, 0); b < 256; b = first_in(bytes, b + 1)) plan->part_of[b] = (int16_t)e;
        for (int w = 0; w < 4; w++) plan->begins.words[w] |= bytes->words[w];
    }
    return plan;
}

static int are_disjoint(const Edges *edges) {
    Bytes met = {{0}};
    for (int32_t e = 0; e < edges->count; e++)
        for (int w = 0; w < 4; w++) {
            if (met.words[w] & edges->all[e].bytes.words[w]) return 0;
            met.words[w] |= edges->all[e].bytes.words[w];
        }
    return 1;
}

// Cut the bytes that `heads` read into parts on which the same edges are taken.
static Plan *plan_of_heads(States *self, const int64_t *heads, Py_ssize_t count) {
    Drafts drafts = {0};
    Plan *plan = NULL;
    int64_t number = 0;
    memset(drafts.part_of, -1, sizeof drafts.part_of);
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t place = edges_of(self, heads[i]);
        if (place < 0) goto done;
        const Edges edges = self->edges[place];
        if (count == 1 && are_disjoint(&edges)) return plan_of_edges(&edges);
        for (int32_t e = 0; e < edges.count; e++)
            if (cut(&drafts, &edges.all[e], (int32_t)i, number++) < 0) goto done;
    }
    plan = plan_of_drafts(&drafts);
done:
    free(drafts.all);
    return plan;
}

// The plan of some heads, shared by all states that have them.
static Plan *shared_plan(States *self, const int64_t *heads, Py_ssize_t count) {
    int32_t place = pool_find(&self->heads, heads, count);
    if (place >= 0) return self->plans[place];
    Plan *plan = plan_of_heads(self, heads, count);
    if (plan == NULL) return NULL;
    if ((place = pool_find(&self->heads, heads, count)) < 0) {
        Plan **more = grown(self->plans, &self->plan_count, self->heads.count + 1, sizeof(Plan *));
        if (more != NULL) self->plans = more;
        place = more == NULL ? -1 : pool_add(&self->heads, heads, count);
        if (place >= 0) {
            self->plans[place] = plan;
            return plan;
        }
    }
    plan_free(plan);
    return place < 0 ? NULL : self->plans[place];  // it was made meanwhile
}

int know_plan(States *self, int32_t state) {
    if (self->opened[state].plan != NULL) return 0;
    const Sequence items = self->items.all[state];
    int32_t first = items.count && items.values[0] == ACCEPT, count = state == DONE ? 0 : items.count - first;
    int64_t *heads = malloc(((size_t)count + 1) * sizeof(int64_t));
    if (heads == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int32_t i = 0; i < count; i++) heads[i] = items.values[first + i] >> 32;
    Plan *plan = shared_plan(self, heads, count);
    free(heads);
    int32_t *targets = plan == NULL ? NULL : malloc(((size_t)plan->count + 1) * sizeof(int32_t));
    int met = self->opened[state].plan != NULL;  // it was opened meanwhile
    if (targets == NULL || met) {
        if (plan != NULL && targets == NULL) PyErr_NoMemory();
        int failed = targets == NULL;
        free(targets);
        return failed ? -1 : 0;
    }
    for (int32_t i = 0; i < plan->count; i++) targets[i] = UNMADE;
    self->opened[state] = (Opened){plan, targets};
    return 0;
}

// -- items that another one makes superfluous, as `covering` has it ---------------------------------------------

// A repetition's body and counts, or -1 for other expressions; those with larger counts are not compared.
int counts_of(States *self, int32_t expression, Repetition *found) {
    if (told_counts(self->continuations, expression, found)) return 0;
    if (expression < self->repetition_count && self->repetitions[expression].body != -2) {
        *found = self->repetitions[expression];
        return 0;
    }
    PyObject *answer = PyObject_CallFunction(self->ask[COUNTS], "i", (int)expression);
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
    Count *counts = whole < 0 || shape.count + repeats == 0 ? NULL : malloc((size_t)(shape.count + 1) * sizeof(Count));
    if (whole < 0) return -1;
    if (counts == NULL && shape.count + repeats) {
        PyErr_NoMemory();
        return -1;
    }
    if (repeats) counts[0] = repetition.count;
    if (shape.count) memcpy(counts + repeats, shape.counts, (size_t)shape.count * sizeof(Count));
    if (self->shapes[current].skeleton >= 0) {  // it was found meanwhile
        free(counts);
    } else {
        self->shapes[current] = (Shape){whole, shape.count + repeats, counts};
    }
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
static int uncover(States *self, Numbers *items) {
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
    if (failed > 0) {
        PyObject *answer = PyObject_CallFunction(self->ask[CLOSURE], "i", (int)continuation);
        failed = answer == NULL || push_all(items, answer) < 0 ? -1 : 0;
        Py_XDECREF(answer);
        return failed;
    }
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

// The state after a byte in a part of a state's plan; -1 with an exception.
int32_t make_target(States *self, int32_t state, int32_t part) {
    const Plan *plan = self->opened[state].plan;
    int32_t target = self->opened[state].targets[part];
    if (target != UNMADE) return target;
    const Sequence *read = &self->items.all[state];
    int32_t first = read->values[0] == ACCEPT;
    Numbers taken = {0}, items = {0};
    for (int32_t i = 0; i < plan->parts[part].count; i++) {
        const Taken *edge = &plan->taken[plan->parts[part].first + i];
        if (push(&taken, (int64_t)(edge->code | ((uint64_t)read->values[first + edge->place] & REST))) < 0) goto done;
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
    free(taken.values);
    free(items.values);
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
    static char *names[] = {"continuations", "edges", "closure", "counts", "widest",
                            "admit", "shortest", "distance", "uncounted", "most_states", "most_held", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOOOOOnn:States", names, &continuations, &ask[EDGES], &ask[CLOSURE], &ask[COUNTS], &ask[WIDEST], &ask[ADMIT],
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
    Py_CLEAR(self->continuations);
    for (int i = 0; i < QUESTIONS; i++) Py_CLEAR(self->ask[i]);
    for (Py_ssize_t i = 0; i < self->items.count; i++) {
        free(self->opened[i].targets);
        Py_XDECREF(self->moves[i]);
    }
    for (Py_ssize_t i = 0; i < self->heads.count; i++) plan_free(self->plans[i]);
    for (Py_ssize_t i = 0; i < self->known.count; i++) free(self->edges[i].all);
    for (Py_ssize_t i = 0; i < self->shape_count; i++) free(self->shapes[i].counts);
    free(self->opened);
    free(self->moves);
    free(self->plans);
    free(self->targets);
    free(self->edges);
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
    {Py_tp_doc, "States(continuations, edges, closure, counts, widest, admit, shortest, distance, uncounted, most_states, "
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
