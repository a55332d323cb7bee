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

// -- edges ------------------------------------------------------------------------------------------------------

#define LAST 0x100  // of a byte: its text ends with it
#define TOLD 0x200  // it is known

// Those of a text, all of whose bytes from here on are given: each leads to the next head.
static int keep_text(States *self, int64_t head, PyObject *text) {
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(text, &bytes, &length) < 0) return -1;
    if (length == 0 || length > PRODUCTS - head) {
        PyErr_Format(PyExc_ValueError, "%lld reads no text", (long long)head);
        return -1;
    }
    uint16_t *more = grown(self->texts, &self->text_count, (Py_ssize_t)(head - TEXTS) + length, sizeof(uint16_t));
    if (more == NULL) return -1;
    self->texts = more;
    more += head - TEXTS;
    for (Py_ssize_t i = 0; i < length; i++) more[i] = (uint16_t)(TOLD | (unsigned char)bytes[i]);
    more[length - 1] |= LAST;
    return 0;
}

int text_byte(States *self, int64_t head, int *last) {
    int64_t place = head - TEXTS;
    if (place >= self->text_count || !(self->texts[place] & TOLD)) {
        PyObject *text = ask(self->ask[EDGES], head);
        int failed = text == NULL || keep_text(self, head, text) < 0;
        Py_XDECREF(text);
        if (failed) return -1;
    }
    *last = (self->texts[place] & LAST) != 0;
    return self->texts[place] & 0xFF;
}

// Of a byte of a text: what is taken, nothing and it is complete, or the next head.
static uint64_t after_byte(int64_t head, int last) { return last ? (uint64_t)1 << 32 : (uint64_t)(head + 1) << 33; }

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

int edges_of(States *self, int64_t head, Edges *edges, Edge *only) {
    if (is_text(head)) {
        int last = 0, byte = text_byte(self, head, &last);
        if (byte < 0) return -1;
        *only = (Edge){{{0}}, after_byte(head, last)};
        put(&only->bytes, byte);
        *edges = (Edges){only, 1};
        return 0;
    }
    int32_t place = pool_find(&self->known, &head, 1);
    if (place < 0) {
        Edges made = {0};
        if (head >= PRODUCTS) {
            if (product_edges(self, head, &made) < 0) return -1;
        } else {
            PyObject *answer = ask(self->ask[EDGES], head);
            int failed = answer == NULL || read_edges(answer, &made) < 0;
            Py_XDECREF(answer);
            if (failed) return -1;
        }
        place = keep_edges(self, head, &made);  // it may have been asked for meanwhile
        free(made.all);
        if (place < 0) return -1;
    }
    *edges = self->edges[place];
    return 0;
}

// -- plans ------------------------------------------------------------------------------------------------------

// Bytes on which the same edges are taken, while a plan is made: the last of them, which comes after the others.
typedef struct {
    Bytes bytes;
    int32_t last, count, number;
} Draft;

typedef struct {
    Taken taken;
    int32_t before;
} Link;

typedef struct {
    Bytes begins;
    Draft parts[256];
    int32_t count;
    Link *links;
    Py_ssize_t link_count, room;
} Drafts;

static int32_t link_to(Drafts *drafts, int32_t before, Taken taken) {
    Link *more = grown(drafts->links, &drafts->room, drafts->link_count + 1, sizeof(Link));
    if (more == NULL) return -1;
    drafts->links = more;
    more[drafts->link_count] = (Link){taken, before};
    return (int32_t)drafts->link_count++;
}

// Common bytes, into `common`; are there any?
static int in_common(const Bytes *one, const Bytes *other, Bytes *common) {
    uint64_t any = 0;
    for (int w = 0; w < 4; w++) any |= common->words[w] = one->words[w] & other->words[w];
    return any != 0;
}

static void take_off(Bytes *bytes, const Bytes *others) {
    for (int w = 0; w < 4; w++) bytes->words[w] &= ~others->words[w];
}

// One more edge: the parts of which it reads some bytes take it there.
static int cut(Drafts *drafts, const Bytes *bytes, Taken taken) {
    Bytes rest = *bytes, common;
    if (in_common(&rest, &drafts->begins, &common)) {
        int32_t before = drafts->count;
        for (int32_t i = 0; i < before; i++) {
            Draft *part = &drafts->parts[i];
            if (!in_common(&rest, &part->bytes, &common)) continue;
            int32_t last = link_to(drafts, part->last, taken);
            if (last < 0) return -1;
            take_off(&rest, &common);
            take_off(&part->bytes, &common);
            if (first_in(&part->bytes, 0) < 256) part = &drafts->parts[drafts->count++], *part = drafts->parts[i];
            *part = (Draft){common, last, part->count + 1, 0};
        }
    }
    if (first_in(&rest, 0) < 256) {
        int32_t last = link_to(drafts, -1, taken);
        if (last < 0) return -1;
        drafts->parts[drafts->count++] = (Draft){rest, last, 1, 0};
    }
    for (int w = 0; w < 4; w++) drafts->begins.words[w] |= bytes->words[w];
    return 0;
}

static Plan *plan_with_room(States *self, int32_t parts, size_t taken) {
    size_t before = (sizeof(Plan) + 7) & ~(size_t)7, in_parts = (size_t)parts * sizeof(Part);
    Plan *plan = lasting(&self->blocks, before + in_parts + taken * sizeof(Taken));
    if (plan == NULL) return NULL;
    plan->count = parts;
    plan->parts = (Part *)((char *)plan + before);
    plan->taken = (Taken *)((char *)plan->parts + in_parts);
    memset(plan->part_of, -1, sizeof plan->part_of);
    return plan;
}

static void number_parts(Drafts *drafts, int16_t *part_of) {
    int16_t part = 0;
    uint8_t order[256];
    for (int32_t i = 0; i < drafts->count; i++)  // by their first bytes
        part_of[first_in(&drafts->parts[i].bytes, 0)] = (int16_t)i;
    for (int b = first_in(&drafts->begins, 0); b < 256; b = first_in(&drafts->begins, b + 1))
        if (part_of[b] >= 0) order[part_of[b]] = (uint8_t)part++;
    for (int32_t i = 0; i < drafts->count; i++) {
        drafts->parts[i].number = order[i];
        for (int w = 0; w < 4; w++)
            for (uint64_t bits = drafts->parts[i].bytes.words[w]; bits; bits &= bits - 1)
                part_of[64 * w + __builtin_ctzll(bits)] = order[i];
    }
}

static Plan *plan_of_drafts(States *self, Drafts *drafts) {
    size_t taken = 0;
    for (int32_t part = 0; part < drafts->count; part++) taken += (size_t)drafts->parts[part].count;
    Plan *plan = plan_with_room(self, drafts->count, taken);
    if (plan == NULL) return NULL;
    number_parts(drafts, plan->part_of);
    plan->begins = drafts->begins;
    int32_t first = 0;
    for (int32_t i = 0; i < drafts->count; i++) {
        const Draft *draft = &drafts->parts[i];
        plan->parts[draft->number] = (Part){draft->bytes, first, draft->count};
        first += draft->count;
        for (int32_t link = draft->last, place = first - 1; link >= 0; link = drafts->links[link].before)
            plan->taken[place--] = drafts->links[link].taken;
    }
    return plan;
}

// Of a byte of a text: which head comes next is not part of it.
static Plan *plan_of_byte(States *self, int64_t head) {
    int last = 0, byte = text_byte(self, head, &last);
    if (byte < 0) return NULL;
    Plan **plan = &self->of_byte[last][byte];
    if (*plan == NULL) {
        if ((*plan = plan_with_room(self, 1, 1)) == NULL) return NULL;
        Bytes *bytes = &(*plan)->begins;
        memset(bytes, 0, sizeof(Bytes));
        put(bytes, byte);
        (*plan)->part_of[byte] = 0;
        (*plan)->parts[0] = (Part){*bytes, 0, 1};
        (*plan)->taken[0] = (Taken){0, last ? after_byte(head, last) : NEXT_HEAD};
    }
    return *plan;
}

// Cut the bytes that `heads` read into parts on which the same edges are taken.
static Plan *plan_of_heads(States *self, const int64_t *heads, Py_ssize_t count) {
    Drafts drafts;
    Plan *plan = NULL;
    drafts.links = NULL;
    drafts.count = 0;
    drafts.link_count = drafts.room = 0;
    memset(&drafts.begins, 0, sizeof(Bytes));
    for (Py_ssize_t i = 0; i < count; i++) {
        Edges edges;
        Edge only;
        if (edges_of(self, heads[i], &edges, &only) < 0) goto done;
        for (int32_t e = 0; e < edges.count; e++)
            if (cut(&drafts, &edges.all[e].bytes, (Taken){(int32_t)i, edges.all[e].code}) < 0) goto done;
    }
    plan = plan_of_drafts(self, &drafts);
done:
    free(drafts.links);
    return plan;
}

// The plan of some heads, shared by all states that have them.
static Plan *shared_plan(States *self, const int64_t *heads, Py_ssize_t count) {
    if (count == 1 && is_text(heads[0])) return plan_of_byte(self, heads[0]);
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
    return place < 0 ? NULL : self->plans[place];  // it was made meanwhile
}

#define FEW_HEADS 32

int know_plan(States *self, int32_t state) {
    if (self->opened[state].plan != NULL) return 0;
    const Sequence items = self->items.all[state];
    int32_t first = items.count && items.values[0] == ACCEPT, count = state == DONE ? 0 : items.count - first;
    int64_t few[FEW_HEADS], *heads = count <= FEW_HEADS ? few : malloc((size_t)count * sizeof(int64_t));
    if (heads == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int32_t i = 0; i < count; i++) heads[i] = items.values[first + i] >> 32;
    Plan *plan = shared_plan(self, heads, count);
    if (heads != few) free(heads);
    if (plan == NULL || self->opened[state].plan != NULL) return plan == NULL ? -1 : 0;  // it was opened meanwhile
    int32_t *targets = lasting(&self->blocks, (size_t)plan->count * sizeof(int32_t));
    if (targets == NULL) return -1;
    for (int32_t i = 0; i < plan->count; i++) targets[i] = UNMADE;
    self->opened[state] = (Opened){plan, targets};
    return 0;
}

