// SPDX-License-Identifier: Apache-2.0
// Chains: the states after one character of a class, after two, and so on, whichever characters these are; whatever the
// states consist of. They lead in a circle, or on for longer than most tokens. As with loops, the tokens inside the
// class are allowed then, and the others leave it with a byte that one of the states reads.

#include "native.h"

#define LEAST 10          // characters of ASCII from which on a class is worth it
#define MOST_FOLLOWED 64  // states inside characters: classes with more are not looked for

static int are_disjoint(const Bytes *bytes, const Bytes *others) {
    uint64_t any = 0;
    for (int w = 0; w < 4; w++) any |= bytes->words[w] & others->words[w];
    return !any;
}

// Do just the characters whose next bytes are those of some edges lead from `state` to `to`? first: of the bytes that
// begin characters those beyond ASCII are meant; budget: of states. -1: an exception.
static int lead_to(States *self, int32_t state, const Edges *edges, int32_t to, int first, int *budget) {
    Opened opened;
    Bytes met = {{0}};
    if (--*budget < 0) return 0;
    if (open_state(self, state, &opened) < 0) return -1;
    for (int32_t e = 0; e < edges->count; e++)  // before any state is made
        for (int w = 0; w < 4; w++)
            if (edges->all[e].bytes.words[w] & ~opened.plan->begins.words[w]) return 0;
    for (int32_t part = 0; part < opened.plan->count; part++) {
        Bytes rest = opened.plan->parts[part].bytes;
        if (first) rest.words[0] = rest.words[1] = 0;
        if (first_in(&rest, 0) == 256) continue;
        int32_t target = target_of(self, state, &opened, part);
        if (target < 0) return -1;
        if (target == DEAD) continue;
        for (int w = 0; w < 4; w++) met.words[w] |= rest.words[w];
        for (int32_t e = 0; e < edges->count; e++) {
            const Edge *edge = &edges->all[e];
            int64_t head = (int64_t)(edge->code >> 33);
            if (are_disjoint(&rest, &edge->bytes)) continue;
            for (int w = 0; w < 4; w++) rest.words[w] &= ~edge->bytes.words[w];
            if (!head && target != to) return 0;
            Edges next;
            Edge only;
            if (head && edges_of(self, head, &next, &only) < 0) return -1;
            int leads = head ? lead_to(self, target, &next, to, 0, budget) : 1;
            if (leads <= 0) return leads;
        }
        if (first_in(&rest, 0) < 256) return 0;
    }
    for (int32_t e = 0; e < edges->count; e++)
        for (int w = 0; w < 4; w++)
            if (edges->all[e].bytes.words[w] & ~met.words[w]) return 0;
    return 1;
}

// The largest class of ASCII characters that lead from a state to one other, which is `next`; how many they are.
static int largest_class(States *self, int32_t state, uint64_t *ascii, int32_t *next) {
    static const Bytes all = {{~(uint64_t)0, ~(uint64_t)0, 0, 0}};
    int32_t targets[256];
    Bytes sets[256];
    int largest = 0;
    Opened opened;
    if (open_state(self, state, &opened) < 0) return -1;
    int32_t count = find_moves(self, state, &all, targets, sets);
    if (count < 0) return -1;
    for (int32_t i = 0; i < count; i++) {
        int size = __builtin_popcountll(sets[i].words[0]) + __builtin_popcountll(sets[i].words[1]);
        if (size <= largest) continue;
        largest = size;
        *next = targets[i];
        memcpy(ascii, sets[i].words, 2 * sizeof(uint64_t));
    }
    return largest;
}

// The state after a character of a class, if it is one whichever that is; DEAD: no; -1: an exception. What else is read
// is added to what leaves the class.
static int32_t next_in(States *self, const Usual *usual, int32_t state, Loop *loop) {
    Opened opened;
    int32_t next = UNMADE;
    Bytes leaving = {{0}}, inside = {{loop->ascii[0], loop->ascii[1], 0, 0}}, read = {{0}};
    if (open_state(self, state, &opened) < 0) return -1;
    for (int32_t part = 0; part < opened.plan->count; part++) {
        const Bytes *bytes = &opened.plan->parts[part].bytes;
        int32_t target = target_of(self, state, &opened, part);
        if (target < 0) return -1;
        if (target == DEAD) continue;
        for (int w = 0; w < 4; w++) {
            leaving.words[w] |= bytes->words[w] & ~inside.words[w];
            read.words[w] |= bytes->words[w] & inside.words[w];
        }
        if (are_disjoint(bytes, &inside)) continue;
        if (next != UNMADE && next != target) return DEAD;
        next = target;
    }
    if (next == UNMADE || memcmp(&read, &inside, sizeof(Bytes)) != 0) return DEAD;
    if (loop->usual >= 0) {
        int budget = MOST_FOLLOWED;
        int leads = lead_to(self, state, &usual->edges[loop->usual], next, 1, &budget);
        if (leads <= 0) return leads < 0 ? -1 : DEAD;
        leaving.words[2] = leaving.words[3] = 0;
    }
    for (int w = 0; w < 4; w++) loop->leaving.words[w] |= leaving.words[w];
    return next;
}

// The states from `state` on. 0: there are too few of them.
static int follow(States *self, const Usual *usual, int32_t state, Loop *loop) {
    loop->chain.count = 0;
    memset(&loop->leaving, 0, sizeof(Bytes));
    while (loop->chain.count < MOST_CHAINED) {
        int32_t place = 0;
        while (place < loop->chain.count && loop->chain.states[place] != state) place++;
        if (place < loop->chain.count) {
            loop->chain.back = place;
            loop->returns = place == 0 && loop->chain.count == 1;
            return 1;
        }
        int32_t next = next_in(self, usual, state, loop);
        if (next < 0) return -1;
        if (next == DEAD) break;
        loop->chain.states[loop->chain.count++] = state;
        state = next;
    }
    loop->times = loop->chain.count - 1;
    return loop->chain.count >= MANY;
}

int find_chain(States *self, const Usual *usual, int32_t state, Loop *loop) {
    int32_t next;
    *loop = (Loop){.usual = -1, .times = -1, .least = -1, .after = -1};
    int size = largest_class(self, state, loop->ascii, &next);
    if (size < LEAST) return size < 0 ? -1 : 0;
    for (int i = 0; i < usual->count && loop->usual < 0; i++) {
        int budget = MOST_FOLLOWED;
        int leads = lead_to(self, state, &usual->edges[i], next, 1, &budget);
        if (leads < 0) return -1;
        if (leads) loop->usual = i;
    }
    int found = follow(self, usual, state, loop);
    if (found || loop->usual < 0) return found;
    loop->usual = -1;
    loop->times = -1;
    return follow(self, usual, state, loop);
}
