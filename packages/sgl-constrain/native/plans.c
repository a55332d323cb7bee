// SPDX-License-Identifier: Apache-2.0
// The plan of a state says which edges of its items are taken on which bytes. It depends on the items' heads alone, so
// most states find theirs made. Python is asked for the edges of a head.

#include "native.h"

static uint64_t little_endian(const unsigned char *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

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

void plan_free(Plan *plan) {
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

