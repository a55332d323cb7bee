// SPDX-License-Identifier: Apache-2.0
// The mask of a state that reads any text but some words, and then what begins like no more of the text; beside what
// else it reads. That is the mask of any text, without the tokens in which one of the words ends and what may come
// after it goes on: no product is met on the way.

#include "native.h"

#define MOST_BYTES 4096  // of the words

typedef struct {
    States *states;
    Tree *tree;
    Level *levels;
    int32_t inside, after;  // states: between two characters of the text, and after it
    int32_t left;           // bytes that may still be looked at
    int32_t longest;        // bytes of a word
    uint8_t *ended;         // bits of the tokens in which a word ends and `after` goes on
} Excluding;

// Where a word stands: whole subtrees of the trie next to each other, none where the trie is left, and the state of the
// text.
typedef struct {
    int32_t place, end, state, depth;
} Place;

// Goes on by one byte. 0: the text may end there, other than as `inside`.
static int go_on(Excluding *all, Place *at, int byte) {
    Opened opened;
    while (at->place < at->end && all->tree->nodes[at->place].byte < byte) at->place += all->tree->nodes[at->place].size;
    const Node *node = &all->tree->nodes[at->place];
    if (at->place < at->end && node->byte == byte) at->end = at->place++ + node->size;
    else at->end = at->place;
    if (open_state(all->states, at->state, &opened) < 0) return -1;
    at->state = state_after(all->states, at->state, &opened, byte);
    if (at->state < 0) return -1;
    return ++at->depth, --all->left >= 0 && at->state != DEAD && (at->state == all->inside || !accepts(all->states, at->state));
}

// What a head reads, where that is one text.
static int go_on_with(Excluding *all, Place *at, int64_t head) {
    Edges edges;
    Edge only;
    int goes = 1;
    for (int last = 0; is_text(head) && goes > 0 && !last; head++) {
        int byte = text_byte(all->states, head, &last);
        goes = byte < 0 ? -1 : go_on(all, at, byte);
        if (last) return goes;
    }
    if (goes <= 0 || head == 0 || head >= PRODUCTS) return goes < 0 ? -1 : 0;
    if (edges_of(all->states, head, &edges, &only) < 0) return -1;
    int byte = edges.count == 1 && edges.all[0].code >> 32 == 1 ? first_in(&edges.all[0].bytes, 0) : 256;
    return byte == 256 || first_in(&edges.all[0].bytes, byte + 1) < 256 ? 0 : go_on(all, at, byte);
}

// Finds the tokens in which one of the words ends with which some items begin. 0: there are other texts than words.
static int find_ended(Excluding *all, const int64_t *items, int32_t count, Place at) {
    for (int32_t i = 0; i < count; i++) {
        if (items[i] == ACCEPT) {
            if (at.state != all->inside) return 0;
            if (at.depth > all->longest) all->longest = at.depth;
            if (descend(all->states, all->tree, all->levels, all->after, at.place, at.end, all->ended) < 0) return -1;
            continue;
        }
        Place next = at;
        int32_t rest = (int32_t)(items[i] & REST);
        int found = go_on_with(all, &next, items[i] >> 32);
        if (found > 0 && find_items(all->states->continuations, rest) < 0) found = -1;
        if (found > 0) {
            const Continuation known = all->states->continuations->all[rest];
            found = find_ended(all, known.items, known.count, next);
        }
        if (found <= 0) return found;
    }
    return 1;
}

// May the text go on for ever?
static int comes_back(States *states, int32_t state) {
    Opened opened;
    if (open_state(states, state, &opened) < 0) return -1;
    for (int32_t part = 0; part < opened.plan->count; part++) {
        int32_t target = target_of(states, state, &opened, part);
        if (target < 0 || target == state) return target < 0 ? -1 : 1;
    }
    return 0;
}

static int begin_alike(States *states, int32_t one, int32_t other) {
    Opened opened[2];
    uint64_t common = 0;
    if (open_state(states, one, &opened[0]) < 0 || open_state(states, other, &opened[1]) < 0) return -1;
    for (int w = 0; w < 4; w++) common |= opened[0].plan->begins.words[w] & opened[1].plan->begins.words[w];
    return common != 0;
}

// The states after the text, with the text as if there were no words, and of what else is read.
static int find_states(States *states, const Sequence *read, int32_t inside, int32_t *after, int32_t *plain, int32_t *others) {
    int32_t last = read->count - 1, rest = (int32_t)(read->values[last] & REST);
    Numbers items[3] = {{0}, {0}, {0}};
    int failed = push_items(states, rest, &items[0]) < 0 || push_appended(states, inside, rest, &items[1]) < 0;
    for (int32_t i = 0; i < last && !failed; i++) failed = push(&items[2], read->values[i]) < 0;
    failed = failed || (*after = number(states, &items[0])) < 0 || (*plain = number(states, &items[1])) < 0 ||
             (*others = number(states, &items[2])) < 0;
    for (int i = 0; i < 3; i++) free(items[i].values);
    return failed ? -1 : 0;
}

int fill_excluding(States *states, Tree *tree, Level *levels, uint8_t *path, int32_t state, uint8_t *bits, Py_ssize_t bytes) {
    const Sequence read = states->items.all[state];
    int32_t inside, words, plain, others;
    if (state == DONE || read.count == 0 || (read.count > 1 && read.values[read.count - 2] >> 32 >= PRODUCTS)) return 0;
    if (!is_without(states, read.values[read.count - 1] >> 32, &inside, &words)) return 0;
    Excluding all = {states, tree, levels, inside, 0, MOST_BYTES, 0, NULL};
    int found = comes_back(states, inside);
    if (found <= 0) return found;
    if (find_states(states, &read, inside, &all.after, &plain, &others) < 0) return -1;
    if ((found = begin_alike(states, inside, all.after))) return found < 0 ? -1 : 0;
    if ((all.ended = calloc((size_t)bytes, 1)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    const Sequence excluded = states->items.all[words];
    found = find_ended(&all, excluded.values, excluded.count, (Place){0, tree->count, inside, 0});
    if (found > 0) {
        // No product on the way is asked how far it is from its end: no farther than that.
        if (all.longest >= states->farthest) states->farthest = all.longest + 1;
        memset(bits, 0, (size_t)bytes);
        if (fill_mask(states, tree, levels, path, plain, bits) < 0) found = -1;
        for (Py_ssize_t i = 0; i < bytes; i++) bits[i] &= (uint8_t)~all.ended[i];
        if (found > 0 && fill_mask(states, tree, levels, path, others, bits) < 0) found = -1;
    }
    free(all.ended);
    return found;
}
