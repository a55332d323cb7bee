// SPDX-License-Identifier: Apache-2.0
// Loops: characters of one class that a state reads over and over, told from its items alone. An item whose
// continuation begins with a repetition that has the item again reads its head any number of times, or as often as
// the repetition says, and then is still able to finish.
//
// So every token inside the class is allowed. The others leave it with a byte that something reads on the way.

#include "native.h"

#define SMALL 1        // characters up to which a class is not worth it
#define MOST_ITEMS 256  // that are looked at

// How an item's head is read over and over.
typedef struct {
    int32_t times;  // 0: it is not, -1: without an end
    int32_t least;  // how often at least, where it is one character that is repeated
    int32_t after;  // the continuation of what is read then
    int64_t next;   // the item after one time; -1 where nothing else can come between
} Round;

static int find_round(States *self, int64_t item, Round *round) {
    int32_t rest = (int32_t)(item & REST);
    Repetition found;
    int64_t head;
    *round = (Round){0, 0, 0, -1};
    if (rest == 0) return 0;
    const Continuation here = self->continuations->all[rest];
    if (counts_of(self, here.expression, &found) < 0) return -1;
    if (found.body < 0) return 0;
    int32_t times = found.count.most == -1 ? -1 : found.count.most == INT32_MAX ? INT32_MAX : found.count.most + 1;
    int character = character_of(self->continuations, found.body, &head);
    if (character < 0) return -1;
    if (character) {
        if (head == item >> 32) *round = (Round){times, found.count.least, here.rest, -1};
        return 0;
    }
    if (find_items(self->continuations, rest) < 0) return -1;
    int32_t less = once_less(self->continuations, rest);
    if (less < 0) return -1;
    const Continuation known = self->continuations->all[rest];
    int64_t next = item >> 32 << 32 | less;
    for (int32_t i = 0; i < known.count; i++)
        if (known.items[i] == next) *round = (Round){times, 0, here.rest, next};
    return 0;
}

static int is_larger(int32_t times, int32_t than) { return than != -1 && (times == -1 || times > than); }

static int is_usual(const Edges *usual, const Edge *edges, int32_t count) {
    if (usual->count != count) return 0;
    for (int32_t i = 0; i < count; i++)
        if (usual->all[i].code != edges[i].code || memcmp(&usual->all[i].bytes, &edges[i].bytes, sizeof(Bytes)) != 0)
            return 0;
    return 1;
}

// The class of a head, into `loop`; its size.
static int read_class(States *self, const Usual *usual, int64_t head, Loop *loop) {
    Edges edges;
    Edge only;
    if (edges_of(self, head, &edges, &only) < 0) return -1;
    int32_t first = 0, size = 0;
    *loop = (Loop){.usual = -1};
    for (; first < edges.count; first++) {
        const uint64_t *words = edges.all[first].bytes.words;
        if (words[2] | words[3]) break;
        loop->ascii[0] |= words[0];
        loop->ascii[1] |= words[1];
    }
    for (int i = 0; i < usual->count && first < edges.count; i++)
        if (is_usual(&usual->edges[i], edges.all + first, edges.count - first)) loop->usual = i;
    loop->whole = first == edges.count || loop->usual >= 0;
    for (int w = 0; w < 2; w++) size += __builtin_popcountll(loop->ascii[w]);
    return size + (loop->usual >= 0 ? 64 : 0);
}

// Go on with what is read after some characters of the class; `beyond`: the class has others than ASCII. later: the
// item comes after others.
static int follow_item(States *self, int64_t head, int64_t item, int later, int beyond, Loop *loop, Numbers *pending) {
    Round round = {0, 0, 0, -1};
    Edges edges;
    Edge only;
    if (item >> 32 >= PRODUCTS) return 1;
    if (edges_of(self, item >> 32, &edges, &only) < 0) return -1;
    int inside = 0, complete = 0;
    if (item >> 32 == head && find_round(self, item, &round) < 0) return -1;
    for (int32_t e = 0; e < edges.count; e++) {
        const Edge *edge = &edges.all[e];
        int meets = (edge->bytes.words[0] & loop->ascii[0]) || (edge->bytes.words[1] & loop->ascii[1]);
        int far = (edge->bytes.words[2] | edge->bytes.words[3]) != 0;
        for (int w = 0; w < 4; w++) loop->leaving.words[w] |= edge->bytes.words[w];
        if (beyond && far && item >> 32 != head) return 2;
        if (!meets && !(beyond && far)) continue;
        inside = 1;
        complete |= (beyond && far) || edge->code >> 32 & 1;
        if (!round.times && !far && edge->code >> 33 && push(pending, (int64_t)(edge->code >> 33) << 32 | (item & REST)) < 0) return -1;
    }
    if (!inside) return 0;
    if (later || !round.times) loop->alone = 0;
    if (round.times && push_items(self, round.after, pending) < 0) return -1;
    if (round.times ? round.next < 0 : !complete) return 0;
    Py_ssize_t before = pending->count, kept = before;
    if (push_items(self, (int32_t)(item & REST), pending) < 0) return -1;
    for (Py_ssize_t i = before; i < pending->count; i++)
        if (pending->values[i] != round.next) pending->values[kept++] = pending->values[i];
    pending->count = kept;
    return 0;
}

// What can be read after characters of the class of `head`. 0: found; 1: it cannot be told; 2: something else reads
// characters beyond ASCII.
static int find_leaving(States *self, const Sequence *items, int64_t head, int beyond, Loop *loop) {
    Numbers pending = {0}, seen = {0};
    int outcome = 0;
    loop->alone = 1;
    memset(&loop->leaving, 0, sizeof(Bytes));
    for (int32_t i = 0; i < items->count && outcome == 0; i++)
        if (items->values[i] != ACCEPT) outcome = follow_item(self, head, items->values[i], 0, beyond, loop, &pending);
    while (pending.count && outcome == 0) {
        int64_t item = pending.values[--pending.count];
        if (item == ACCEPT || contains(&seen, item)) continue;
        outcome = add(&seen, item) < 0 ? -1 : follow_item(self, head, item, 1, beyond, loop, &pending);
        if (outcome == 0 && seen.count > MOST_ITEMS) outcome = 1;
    }
    free(pending.values);
    free(seen.values);
    for (int w = 0; w < 2; w++) loop->leaving.words[w] &= ~loop->ascii[w];
    for (int w = 2; beyond && w < 4; w++) loop->leaving.words[w] = 0;
    return outcome;
}

// What comes after the items of a loop, where they are alike.
static int find_next(States *self, const Sequence *items, int32_t state, int64_t head, Loop *loop) {
    Numbers next = {0}, after = {0};
    int failed = 0, alike = loop->alone && loop->whole;
    loop->least = -1;
    for (int32_t i = 0; i < items->count && !failed; i++) {
        Round round;
        if (items->values[i] >> 32 != head) continue;
        failed = find_round(self, items->values[i], &round) < 0 || push_items(self, (int32_t)(items->values[i] & REST), &next) < 0;
        if (failed) break;
        int32_t least = round.least == INT32_MAX ? INT32_MAX : round.least + 1;
        alike &= round.times == loop->times && round.next < 0 && (loop->least < 0 || loop->least == least);
        loop->least = least;
        failed = alike && push_items(self, round.after, &after) < 0;
    }
    loop->returns = 0;
    loop->after = -1;
    if (!failed && loop->times < 0) {
        int32_t following = number(self, &next);
        failed = following < 0;
        loop->returns = following == state;
    }
    if (!failed && alike) failed = (loop->after = number(self, &after)) < 0;
    free(next.values);
    free(after.values);
    return failed ? -1 : 0;
}

int find_loop(States *self, const Usual *usual, int32_t state, Loop *loop) {
    const Sequence items = self->items.all[state];
    int64_t head = 0;
    int largest = SMALL;
    if (items.count == 0 || state == DONE || items.values[items.count - 1] >> 32 >= PRODUCTS) return 0;
    for (int32_t i = 0; i < items.count; i++) {
        Round round;
        int64_t here = items.values[i] >> 32;
        Loop found;
        if (here == 0) continue;
        if (find_round(self, items.values[i], &round) < 0) return -1;
        if (!round.times) continue;
        if (here == head) {
            if (is_larger(round.times, loop->times)) loop->times = round.times;
            continue;
        }
        int size = read_class(self, usual, here, &found);
        if (size < 0) return -1;
        if (size <= largest) continue;
        largest = size;
        head = here;
        *loop = found;
        loop->times = round.times;
    }
    if (!head) return 0;
    int outcome = find_leaving(self, &items, head, loop->usual >= 0, loop);
    if (outcome == 2) {
        loop->usual = -1;
        loop->whole = 0;
        outcome = find_leaving(self, &items, head, 0, loop);
    }
    if (outcome == 0 && find_next(self, &items, state, head, loop) < 0) return -1;
    return outcome < 0 ? -1 : outcome == 0 && (loop->usual >= 0 || loop->ascii[0] || loop->ascii[1]);
}

// The state after a character beyond ASCII, where all items that read such have one head, and it all of a usual class:
// its number, or -1, or -2 with an exception.
int find_beyond(States *self, const Usual *usual, int32_t state, int32_t *after) {
    const Sequence items = self->items.all[state];
    int64_t found = 0;
    int failed = 0;
    Numbers next = {0};
    Loop class = {.usual = -1};
    for (int32_t i = 0; i < items.count && state != DONE && !failed; i++) {
        int64_t head = items.values[i] >> 32;
        Edges edges = {NULL, 0};
        Edge only;
        int far = 0;
        failed = head && edges_of(self, head, &edges, &only) < 0;
        for (int32_t e = 0; !failed && e < edges.count; e++) {
            const uint64_t *words = edges.all[e].bytes.words;
            far |= (words[2] | words[3]) != 0;
        }
        if (!far) continue;
        if ((found && found != head) || head >= PRODUCTS) {
            class.usual = -1;
            break;
        }
        failed = read_class(self, usual, head, &class) < 0 || push_items(self, (int32_t)(items.values[i] & REST), &next) < 0;
        found = head;
    }
    if (!failed && class.usual >= 0) failed = (*after = number(self, &next)) < 0;
    free(next.values);
    return failed ? -2 : class.usual;
}
