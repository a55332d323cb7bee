// SPDX-License-Identifier: Apache-2.0
// Products: heads that read what `left` reads while watching `right`, together (`both`) or `left` and never `right`.
// They are numbered here, with their edges and what is known of their liveness, as `Automaton` and `Liveness` have it:
// a product is searched for a completion, most promising first. Where that takes long Python is asked, which knows how
// to search without counting.

#include "native.h"

#define MOST_SEARCHED 64 // products that are searched here
#define FAR ((int64_t)1 << 60)  // a length that is not known, or has no end
#define MOST_BYTES 8  // of a character
#define UNKNOWN (-2)  // instead of a distance
#define NEVER (-1)
#define FAILED (-3)

typedef struct {
    int both;
    int32_t left, right;
} Product;

static Product product_at(const States *self, int64_t number) {
    const int64_t *values = self->products.all[number].values;
    return (Product){(int)values[0], (int32_t)values[1], (int32_t)values[2]};
}

// Is it the head of a product? Else with an exception.
static int is_product(const States *self, int64_t head) {
    if (head >= PRODUCTS && head - PRODUCTS < self->products.count) return 1;
    PyErr_Format(PyExc_ValueError, "%lld is no product", (long long)head);
    return 0;
}

static int given_product(const States *self, PyObject *given, int64_t *head) {
    *head = PyLong_AsLongLong(given);
    if (*head == -1 && PyErr_Occurred()) return -1;
    return is_product(self, *head) ? 0 : -1;
}

// The number of a product, its head without PRODUCTS; -1: an exception.
static int64_t product_number(States *self, int both, int32_t left, int32_t right) {
    int64_t values[3] = {both, left, right};
    int32_t number = pool_find(&self->products, values, 3);
    if (number >= 0) return number;
    if (self->products.count >= self->most_states) {
        PyObject *none = PyObject_CallFunction(self->ask[ADMIT], "nn", (Py_ssize_t)0, self->most_held + 1);
        Py_XDECREF(none);
        if (none != NULL) PyErr_SetString(PyExc_OverflowError, "there are too many products");
        return -1;
    }
    int64_t *more = grown(self->distances, &self->distance_count, self->products.count + 1, sizeof(int64_t));
    if (more == NULL) return -1;
    self->distances = more;
    number = pool_add(&self->products, values, 3);
    if (number >= 0) self->distances[number] = UNKNOWN;
    return number;
}

static int product_accepts(const States *self, Product product) {
    return accepts(self, product.left) && accepts(self, product.right) == product.both;
}

static int right_no_longer_matters(const States *self, Product product) {
    return product.right == (product.both ? self->everything : DEAD);
}

// -- lengths ----------------------------------------------------------------------------------------------------

static int64_t sum_of(int64_t a, int64_t b) { return a + b < FAR ? a + b : FAR; }

// Bytes of the shortest character that a head reads, or of its text; -1 with an exception. deep: bytes before it.
static int64_t shortest_of_head(States *self, int64_t head, int deep) {
    if (deep > MOST_BYTES) return FAR;
    int64_t bytes = 1, least = FAR;
    for (int last = 0; is_text(head); head++, bytes++) {
        if (text_byte(self, head, &last) < 0) return -1;
        if (last) return bytes;
    }
    Edges edges;
    Edge only;
    if (edges_of(self, head, &edges, &only) < 0) return -1;
    for (int32_t e = 0; e < edges.count; e++)
        if (edges.all[e].code >> 32 & 1) return bytes;
    for (int32_t e = 0; e < edges.count; e++) {
        int64_t after = shortest_of_head(self, (int64_t)(edges.all[e].code >> 33), deep + 1);
        if (after < 0) return -1;
        if (sum_of(after, bytes) < least) least = sum_of(after, bytes);
    }
    return least;
}

static int64_t shortest_of_continuation(States *self, int32_t continuation) {
    Py_ssize_t before = self->length_count;
    int64_t *more = grown(self->lengths, &self->length_count, self->continuations->count, sizeof(int64_t));
    if (more == NULL) return -1;
    self->lengths = more;
    for (Py_ssize_t i = before; i < self->length_count; i++) more[i] = UNKNOWN;
    more[0] = 0;
    Numbers path = {0};
    int failed = 0;
    for (int32_t at = continuation; !failed && self->lengths[at] < 0; at = self->continuations->all[at].rest)
        failed = push(&path, at);
    while (!failed && path.count) {
        int32_t at = (int32_t)path.values[--path.count];
        const Continuation here = self->continuations->all[at];
        PyObject *answer = ask(self->ask[SHORTEST], here.expression);
        long long length = answer == NULL ? -1 : PyLong_AsLongLong(answer);
        Py_XDECREF(answer);
        failed = PyErr_Occurred() != NULL;
        if (!failed && length < 0) {
            PyErr_SetString(PyExc_ValueError, "a length must not be below 0");
            failed = 1;
        }
        if (!failed) self->lengths[at] = sum_of(length < FAR ? length : FAR, self->lengths[here.rest]);
    }
    free(path.values);
    return failed ? -1 : self->lengths[continuation];
}

// Bytes of the shortest completion of a state; FAR where that is not plain to see; -1 with an exception.
static int64_t shortest(States *self, int32_t state) {
    const Sequence items = self->items.all[state];
    int64_t least = FAR;
    for (int32_t i = 0; i < items.count && state != DONE; i++) {
        int64_t head = items.values[i] >> 32, length = 0;
        if (head >= PRODUCTS) continue;
        if (head && (length = shortest_of_head(self, head, 0)) < 0) return -1;
        int64_t after = shortest_of_continuation(self, (int32_t)(items.values[i] & REST));
        if (after < 0) return -1;
        if (sum_of(length, after) < least) least = sum_of(length, after);
    }
    return least;
}

// -- what comes after a product ---------------------------------------------------------------------------------

typedef struct {
    Bytes bytes;
    Product product;
} Successor;

typedef struct {
    Successor all[257];
    int count;
} Successors;

static void succeed(Successors *after, const uint64_t *words, Product product) {
    int i = after->count;
    while (i > 0 && (after->all[i - 1].product.left != product.left || after->all[i - 1].product.right != product.right)) i--;
    if (i == 0) {
        i = ++after->count;
        after->all[i - 1] = (Successor){.product = product};
    }
    for (int w = 0; w < 4; w++) after->all[i - 1].bytes.words[w] |= words[w];
}

static int meet(uint64_t *common, const uint64_t *one, const Bytes *other) {
    uint64_t any = 0;
    for (int w = 0; w < 4; w++) any |= common[w] = one[w] & other->words[w];
    return any != 0;
}

static int find_successors(States *self, Product product, Successors *after) {
    Opened left, right;
    after->count = 0;
    if (open_state(self, product.left, &left) < 0 || open_state(self, product.right, &right) < 0) return -1;
    for (int32_t p = 0; p < left.plan->count; p++) {
        int32_t one = target_of(self, product.left, &left, p);
        if (one < 0) return -1;
        if (one == DEAD) continue;
        Bytes rest = left.plan->parts[p].bytes;
        for (int32_t q = 0; q < right.plan->count; q++) {
            uint64_t common[4];
            if (!meet(common, rest.words, &right.plan->parts[q].bytes)) continue;
            int32_t other = target_of(self, product.right, &right, q);
            if (other < 0) return -1;
            for (int w = 0; w < 4; w++) rest.words[w] &= ~common[w];
            if (other != DEAD || !product.both) succeed(after, common, (Product){product.both, one, other});
        }
        if (!product.both && first_in(&rest, 0) < 256) succeed(after, rest.words, (Product){0, one, DEAD});
    }
    return 0;
}

// -- liveness ---------------------------------------------------------------------------------------------------

typedef struct {
    int64_t promise, other;  // less is better
    int64_t number, before;
} Candidate;

typedef struct {
    Candidate all[MOST_SEARCHED];  // in the order in which they were met
    int taken[MOST_SEARCHED], count;
} Search;

static int met(const Search *search, int64_t number) {
    for (int i = 0; i < search->count; i++)
        if (search->all[i].number == number) return 1;
    return 0;
}

static int promise_of(States *self, Product product, Candidate *candidate) {
    int64_t left = shortest(self, product.left), right = left < 0 ? -1 : shortest(self, product.right);
    if (right < 0) return -1;
    if (left == FAR) left = 0;
    if (right == FAR || !product.both) right = 0;
    candidate->promise = left > right ? left : right;
    candidate->other = left > right ? -right : -left;
    return 0;
}

static int most_promising(const Search *search) {
    int best = -1;
    for (int i = 0; i < search->count; i++) {
        if (search->taken[i]) continue;
        const Candidate *one = &search->all[i], *other = best < 0 ? NULL : &search->all[best];
        if (other == NULL || one->promise < other->promise || (one->promise == other->promise && one->other <= other->other)) best = i;
    }
    return best;
}

static void found(States *self, const Search *search, int place, int64_t distance) {
    for (int64_t at = place; at >= 0; at = search->all[at].before) {
        if (distance > FAR) distance = FAR;
        self->distances[search->all[at].number] = distance;
        if (distance > self->farthest) self->farthest = distance;
        distance++;
    }
}

// 0: the distance is known then; 1: it is not; -1: an exception.
static int search_from(States *self, int64_t number, Search *search, Successors *after) {
    search->count = 1;
    search->all[0] = (Candidate){0, 0, number, -1};
    search->taken[0] = 0;
    for (int place; (place = most_promising(search)) >= 0;) {
        search->taken[place] = 1;
        if (find_successors(self, product_at(self, search->all[place].number), after) < 0) return -1;
        for (int i = 0; i < after->count; i++) {
            Product next = after->all[i].product;
            int64_t distance = NEVER;
            if (product_accepts(self, next)) {
                distance = 0;
            } else if (right_no_longer_matters(self, next)) {
                if ((distance = shortest(self, next.left)) < 0) return -1;
            } else {
                int64_t following = product_number(self, next.both, next.left, next.right);
                if (following < 0) return -1;
                distance = self->distances[following];
                if (distance == UNKNOWN && !met(search, following)) {
                    if (search->count == MOST_SEARCHED) return 1;
                    Candidate candidate = {0, 0, following, place};
                    if (promise_of(self, next, &candidate) < 0) return -1;
                    search->taken[search->count] = 0;
                    search->all[search->count++] = candidate;
                }
            }
            if (distance >= 0) {
                found(self, search, place, 1 + distance);
                return 0;
            }
        }
    }
    for (int i = 0; i < search->count; i++) self->distances[search->all[i].number] = NEVER;
    return 0;
}

// Where one more byte tells: the distance, or UNKNOWN; FAILED: an exception.
static int64_t look_ahead(States *self, const Successors *after) {
    int64_t best = UNKNOWN;
    for (int i = 0; i < after->count; i++) {
        Product next = after->all[i].product;
        int64_t distance = UNKNOWN;
        if (product_accepts(self, next)) return 1;
        if (right_no_longer_matters(self, next)) {
            if ((distance = shortest(self, next.left)) < 0) return FAILED;
        } else {
            int64_t values[3] = {next.both, next.left, next.right};
            int32_t known = pool_find(&self->products, values, 3);
            if (known >= 0) distance = self->distances[known];
        }
        if (distance >= 0 && (best == UNKNOWN || distance + 1 < best)) best = sum_of(distance, 1);
    }
    return best;
}

static int search(States *self, int64_t number) {
    Search *search = malloc(sizeof(Search) + sizeof(Successors));
    if (search == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int unknown = search_from(self, number, search, (Successors *)(search + 1));
    free(search);
    if (unknown <= 0 || self->distances[number] != UNKNOWN) return unknown < 0 ? -1 : 0;
    PyObject *answer = ask(self->ask[DISTANCE], PRODUCTS + number);
    long long distance = answer == NULL ? -1 : PyLong_AsLongLong(answer);
    Py_XDECREF(answer);
    if (PyErr_Occurred()) return -1;
    self->distances[number] = distance < 0 ? NEVER : distance < FAR ? distance : FAR;
    return 0;
}

// Where `left` reads a byte that `right` does not, and nothing may be taken away any more: as `look_ahead`.
static int64_t look_beside(States *self, Product product) {
    Opened left, right;
    if (product.both) return UNKNOWN;
    if (open_state(self, product.left, &left) < 0 || open_state(self, product.right, &right) < 0) return FAILED;
    for (int32_t part = 0; part < left.plan->count; part++) {
        uint64_t beside = 0;
        for (int w = 0; w < 4; w++) beside |= left.plan->parts[part].bytes.words[w] & ~right.plan->begins.words[w];
        int32_t after = beside ? target_of(self, product.left, &left, part) : DEAD;
        if (after < 0) return FAILED;
        if (after == DEAD) continue;
        int64_t distance = accepts(self, after) ? 0 : shortest(self, after);
        if (distance < 0) return FAILED;
        if (distance < FAR) return sum_of(distance, 1);
    }
    return UNKNOWN;
}

// Can the product finish after at least one more byte? -1: an exception.
static int is_live(States *self, int64_t number) {
    if (self->distances[number] == UNKNOWN) {
        int64_t beside = look_beside(self, product_at(self, number));
        if (beside == FAILED) return -1;
        if (beside >= 0) {
            self->distances[number] = beside;
            if (beside > self->farthest) self->farthest = beside;
            return 1;
        }
        Successors after;
        if (find_successors(self, product_at(self, number), &after) < 0) return -1;
        int64_t distance = look_ahead(self, &after);
        if (distance == FAILED) return -1;
        if (distance >= 0) {
            self->distances[number] = distance;
            if (distance > self->farthest) self->farthest = distance;
        } else if (self->distances[number] == UNKNOWN && search(self, number) < 0) {
            return -1;
        }
    }
    return self->distances[number] != NEVER;
}

// -- what a state needs to know of one --------------------------------------------------------------------------

int product_edges(States *self, int64_t head, Edges *edges) {
    if (!is_product(self, head)) return -1;
    Successors *after = malloc(sizeof(Successors));
    *edges = (Edges){malloc(257 * sizeof(Edge)), 0};
    int failed = after == NULL || edges->all == NULL;
    if (failed) PyErr_NoMemory();
    else failed = find_successors(self, product_at(self, head - PRODUCTS), after);
    for (int i = 0; !failed && i < after->count; i++) {
        Product next = after->all[i].product;
        int64_t number = product_number(self, next.both, next.left, next.right);
        int live = number < 0 ? -1 : is_live(self, number), complete = product_accepts(self, next);
        failed = live < 0;
        if (failed || !(live || complete)) continue;
        uint64_t code = (uint64_t)(live ? (PRODUCTS + number) << 1 : 0) | (uint64_t)complete;
        edges->all[edges->count++] = (Edge){after->all[i].bytes, code << 32};
    }
    free(after);
    if (failed) {
        free(edges->all);
        edges->all = NULL;
    }
    return failed ? -1 : 0;
}

// `continuation` with `rest` in place of its end, or -1 with an exception.
static int32_t append(States *self, int32_t continuation, int32_t rest) {
    Numbers path = {0};
    int failed = 0;
    for (; continuation && !failed; continuation = self->continuations->all[continuation].rest)
        failed = push(&path, self->continuations->all[continuation].expression);
    while (!failed && rest >= 0 && path.count) rest = then(self->continuations, (int32_t)path.values[--path.count], rest);
    free(path.values);
    return failed ? -1 : rest;
}

// The items of a state, but for the end of the text, and then `rest`.
int push_appended(States *self, int32_t state, int32_t rest, Numbers *items) {
    const Sequence read = self->items.all[state];
    for (int32_t i = 0; i < read.count && state != DONE; i++) {
        if (read.values[i] == ACCEPT) continue;
        int32_t after = append(self, (int32_t)(read.values[i] & REST), rest);
        if (after < 0 || push(items, read.values[i] >> 32 << 32 | after) < 0) return -1;
    }
    return 0;
}

int is_without(const States *self, int64_t head, int32_t *left, int32_t *right) {
    if (head < PRODUCTS) return 0;
    Product product = product_at(self, head - PRODUCTS);
    *left = product.left;
    *right = product.right;
    return !product.both;
}

// The items of a product and then `rest`.
int push_product(States *self, int64_t head, int32_t rest, Numbers *items) {
    if (!is_product(self, head)) return -1;
    Product product = product_at(self, head - PRODUCTS);
    if (!right_no_longer_matters(self, product)) {
        int live = is_live(self, head - PRODUCTS);
        return live > 0 ? push(items, head << 32 | rest) : live;
    }
    return push_appended(self, product.left, rest, items);
}

// The state that reads an expression, or -1 with an exception.
static int32_t start_of(States *self, int32_t expression) {
    Numbers items = {0};
    int32_t start = then(self->continuations, expression, 0);
    if (start >= 0) start = push_items(self, start, &items) < 0 ? -1 : number(self, &items);
    free(items.values);
    return start;
}

// The items of a product of expressions and then `rest`. 1: it may be empty too; -1: an exception.
int push_product_of(States *self, int both, int32_t left, int32_t right, int32_t rest, Numbers *items) {
    if (Py_EnterRecursiveCall(" in a product of products")) return -1;
    int32_t one = start_of(self, left), other = one < 0 ? -1 : start_of(self, right);
    Py_LeaveRecursiveCall();
    if (other < 0) return -1;
    Product product = {both != 0, one, other};
    if (right_no_longer_matters(self, product)) {
        if (push_appended(self, one, rest, items) < 0) return -1;
    } else {
        int64_t number = product_number(self, product.both, one, other);
        if (number < 0 || push_product(self, PRODUCTS + number, rest, items) < 0) return -1;
    }
    return product_accepts(self, product);
}

int32_t without_exceptions(States *self, int32_t state) {
    const Sequence items = self->items.all[state];
    if (state == DONE || !items.count || items.values[items.count - 1] >> 32 < PRODUCTS) return state;
    Numbers pending = {0}, kept = {0};
    int failed = 0;
    for (int32_t i = 0; i < items.count && !failed; i++) failed = push(&pending, items.values[i]);
    while (pending.count && !failed) {
        int64_t item = pending.values[--pending.count], head = item >> 32;
        Product product = head < PRODUCTS ? (Product){1, 0, 0} : product_at(self, head - PRODUCTS);
        failed = product.both ? push(&kept, item) : push_appended(self, product.left, (int32_t)(item & REST), &pending);
    }
    if (!failed) failed = (state = number(self, &kept)) < 0;
    free(pending.values);
    free(kept.values);
    return failed ? -1 : state;
}

// -- what Python may ask ----------------------------------------------------------------------------------------

PyObject *states_product(PyObject *object, PyObject *given) {
    States *self = (States *)object;
    int64_t head;
    if (given_product(self, given, &head) < 0) return NULL;
    Product product = product_at(self, head - PRODUCTS);
    return Py_BuildValue("Nii", PyBool_FromLong(product.both), (int)product.left, (int)product.right);
}

PyObject *states_product_head(PyObject *object, PyObject *args) {
    States *self = (States *)object;
    int both, left, right;
    if (!PyArg_ParseTuple(args, "pii:product_head", &both, &left, &right)) return NULL;
    if (left < 0 || left >= self->items.count || right < 0 || right >= self->items.count)
        return PyErr_Format(PyExc_ValueError, "a product is of two states");
    int64_t number = product_number(self, both, left, right);
    return number < 0 ? NULL : PyLong_FromLongLong(PRODUCTS + number);
}

PyObject *states_is_live(PyObject *object, PyObject *given) {
    States *self = (States *)object;
    int64_t head;
    if (given_product(self, given, &head) < 0) return NULL;
    int live = is_live(self, head - PRODUCTS);
    return live < 0 ? NULL : PyBool_FromLong(live);
}

PyObject *states_farthest(PyObject *object, PyObject *ignored) {
    (void)ignored;
    return PyLong_FromLongLong(((States *)object)->farthest);
}

// Which state reads everything: a product with it no longer matters.
PyObject *states_everything(PyObject *object, PyObject *given) {
    States *self = (States *)object;
    int32_t state;
    if (given_state(self, given, &state) < 0) return NULL;
    self->everything = state;
    Py_RETURN_NONE;
}
