// SPDX-License-Identifier: Apache-2.0
// The mask of a state. Where a first byte leads to a state that reads characters of a class over and over, the tokens
// that go on with such characters are known beforehand; what is left to walk begins where others leave the class.
// Other first bytes are walked from the root.

#include "native.h"

#define SMALL 600  // nodes of subtrees that are walked without further ado
#define EXITS_A_NODE 2   // beyond that it takes longer to look at exits than to walk
#define EXITS_A_TOKEN 4
#define FEW_EXITS 2000

typedef struct {
    States *states;
    Tree *tree;
    Known *known;
    Level *levels;  // room for one more than there are,
    uint8_t *path;  // and for the bytes of a way
    uint8_t *bits;
} Work;

static void unite_common(uint8_t *restrict bits, const uint8_t *one, const uint8_t *other, Py_ssize_t bytes) {
    for (Py_ssize_t i = 0; i < bytes; i++) bits[i] |= one[i] & other[i];
}

static void unite_common_of_three(uint8_t *restrict bits, const uint8_t *one, const uint8_t *other, const uint8_t *third,
                                  Py_ssize_t bytes) {
    for (Py_ssize_t i = 0; i < bytes; i++) bits[i] |= one[i] & other[i] & third[i];
}

static int walk_roots(Work *work, int32_t state, const Bytes *bytes) {
    for (int b = first_in(bytes, 0); b < 256; b = first_in(bytes, b + 1)) {
        int32_t place = work->known->root[b];
        if (place < 0) continue;
        int32_t end = place + work->known->below[b];
        if (descend(work->states, work->tree, work->levels, state, place, end, work->bits) < 0) return -1;
    }
    return 0;
}

static int32_t nodes_below(const Work *work, const Bytes *bytes) {
    int32_t nodes = 0;
    for (int w = 0; w < 4; w++)
        for (uint64_t bits = bytes->words[w]; bits; bits &= bits - 1) nodes += work->known->below[64 * w + __builtin_ctzll(bits)];
    return nodes;
}

// The state in which a node is reached when its way, but for the first character, is read from `state`; -1: an
// exception.
static int32_t reached(Work *work, int32_t state, int32_t place) {
    int32_t depth = work->tree->nodes[place].depth + 1;
    for (int32_t i = depth - 1; i >= 0; i--, place = work->known->parent[place]) work->path[i] = work->tree->nodes[place].byte;
    int32_t skip = 1;
    while (skip < depth && work->path[0] >= 0x80 && (work->path[skip] & 0xC0) == 0x80) skip++;
    for (int32_t i = skip; i < depth && state > 0; i++) {
        Opened opened;
        if (open_state(work->states, state, &opened) < 0) return -1;
        state = state_after(work->states, state, &opened, work->path[i]);
    }
    return state;
}

// Do all ASCII characters of the class lead from a state to itself?
static int stays(Work *work, int32_t state, const Opened *opened, const Loop *loop) {
    for (int32_t part = 0; part < opened->plan->count; part++) {
        const uint64_t *words = opened->plan->parts[part].bytes.words;
        if (!(words[0] & loop->ascii[0]) && !(words[1] & loop->ascii[1])) continue;
        int32_t target = target_of(work->states, state, opened, part);
        if (target < 0) return -1;
        if (target != state) return 0;
    }
    return 1;
}

typedef struct {
    const Loop *loop;
    const Bytes *first;
    int32_t state;   // that reads the class
    int32_t most;    // characters of a way that are read surely,
    int on;          // but there may be more
    uint8_t within;  // one of the bits that it must have
    Bytes before;    // with which it may end; 0x80 stands for all beyond ASCII
    int stays;
    Opened opened, after;
} Leaving;

// The state after a way out of the class; -1: an exception.
static int32_t left_to(Work *work, const Leaving *leaving, const Exit *exit, int byte, int32_t target) {
    int32_t characters = exit->characters - 1;
    if (leaving->stays && (leaving->loop->returns || exit->within & PLAIN)) return target;
    if (characters == 0) return state_after(work->states, leaving->state, &leaving->opened, byte);
    const Chain *chain = &leaving->loop->chain;
    if (chain->count && exit->characters <= leaving->most) {
        int32_t past = characters - chain->back;
        int32_t before = chain->states[characters < chain->count ? characters : chain->back + past % (chain->count - chain->back)];
        Opened opened;
        return open_state(work->states, before, &opened) < 0 ? -1 : state_after(work->states, before, &opened, byte);
    }
    if (leaving->loop->after >= 0 && exit->characters < UINT16_MAX)
        return characters < leaving->loop->least ? DEAD : state_after(work->states, leaving->loop->after, &leaving->after, byte);
    Opened opened;
    int32_t before = reached(work, leaving->state, work->known->parent[exit->place]);
    if (before < 0 || open_state(work->states, before, &opened) < 0) return -1;
    return state_after(work->states, before, &opened, byte);
}

static int is_way(const Exit *exit, const Leaving *leaving) {
    return !(exit->ascii[0] & ~leaving->loop->ascii[0]) && !(exit->ascii[1] & ~leaving->loop->ascii[1]) &&
           exit->within & leaving->within && has_byte(leaving->first, exit->first);
}

// What is below nodes that stand after just as many characters of the class as are read surely.
static int walk_far(Work *work, const Leaving *leaving) {
    const Known *known = work->known;
    for (int32_t i = known->far_of[leaving->most]; i < known->far_of[leaving->most + 1]; i++) {
        const Exit *exit = &known->far[i];
        if (!is_way(exit, leaving)) continue;
        int32_t before = reached(work, leaving->state, known->parent[exit->place]);
        int32_t end = exit->place + work->tree->nodes[exit->place].size;
        if (before < 0 || descend(work->states, work->tree, work->levels, before, exit->place, end, work->bits) < 0) return -1;
    }
    return 0;
}

// From where on, and up to where, lists of exits follow one another behind a byte that may come before them, from `byte`
// on; BEFORE: there are no more.
static int lists_from(const Leaving *leaving, int byte, int *end) {
    byte = first_in(&leaving->before, byte);
    *end = byte + 1;
    while (*end < BEFORE && has_byte(&leaving->before, *end)) ++*end;
    return byte < BEFORE ? byte : BEFORE;
}

static int32_t count_exits(const Known *known, const Leaving *leaving) {
    int32_t exits = 0;
    for (int from = 0, to; (from = lists_from(leaving, from, &to)) < BEFORE; from = to)
        for (int b = first_in(&leaving->loop->leaving, 0); b < 256; b = first_in(&leaving->loop->leaving, b + 1))
            exits += known->exits_of[b * BEFORE + to] - known->exits_of[b * BEFORE + from];
    return exits;
}

static int leave_by(Work *work, const Leaving *leaving, int byte, int from, int to) {
    const Known *known = work->known;
    int32_t target = DEAD;
    if (leaving->stays && (target = state_after(work->states, leaving->state, &leaving->opened, byte)) < 0) return -1;
    int plain = !(leaving->within & ~PLAIN) || leaving->loop->returns;
    if (plain && leaving->stays && target == DEAD) return 0;
    for (int32_t i = known->exits_of[byte * BEFORE + from]; i < known->exits_of[byte * BEFORE + to]; i++) {
        const Exit *exit = &known->exits[i];
        if (!is_way(exit, leaving) || (exit->characters > leaving->most && !leaving->on)) continue;
        const Node *node = &work->tree->nodes[exit->place];
        int32_t after = left_to(work, leaving, exit, byte, target);
        if (after < 0) return -1;
        if (after == DEAD) continue;
        if (node->token >= 0) set_bit(work->bits, node->token);
        if (node->size > 1 && descend(work->states, work->tree, work->levels, after, exit->place + 1,
                                      exit->place + node->size, work->bits) < 0)
            return -1;
    }
    return 0;
}

// The tokens that begin with one of the bytes `first` and are read from `state`, which has a loop, but for their first
// character. 0: they are not told so.
static int go_round(Work *work, int32_t state, const Bytes *first, const Loop *loop) {
    Known *known = work->known;
    int usual = loop->usual >= 0 ? loop->usual : work->tree->usual.count, far = 0;
    int64_t most = loop->times < 0 ? INT32_MAX : (int64_t)loop->times + 1;
    Leaving leaving = {loop, first, state, most > INT32_MAX ? INT32_MAX : (int32_t)most, 0,
                       (uint8_t)(loop->usual >= 0 ? 1 << usual : PLAIN), {{0}}, 0, {NULL, NULL}, {NULL, NULL}};
    for (int w = 0; w < 2; w++) leaving.before.words[w] = loop->ascii[w] | first->words[w];
    if (loop->usual >= 0 || first->words[2] | first->words[3]) put(&leaving.before, BEFORE - 1);
    const Class *class = class_of(known, loop->ascii, usual);
    const uint8_t *beginning = class == NULL ? NULL : beginning_with(known, first);
    if (beginning == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int64_t exits = count_exits(known, &leaving);
    if (exits > EXITS_A_NODE * (int64_t)nodes_below(work, first) || exits > FEW_EXITS + EXITS_A_TOKEN * (int64_t)class->several) return 0;
    const uint8_t *tokens = class->tokens;
    // What leaves the class after a chain is not known, so what is longer is walked.
    if (loop->times < 0 || (most >= class->longest && known->longest < UINT16_MAX && !loop->chain.count)) {
        unite_common(work->bits, beginning, tokens, known->bytes);
    } else if ((!loop->alone && most < MANY) || most > MOST_COUNTED || known->longest == UINT16_MAX) {
        return 0;
    } else {
        unite_common_of_three(work->bits, beginning, tokens, known->up_to[most], known->bytes);
        far = !loop->alone;
    }
    leaving.on = !loop->alone && !far;
    if (open_state(work->states, state, &leaving.opened) < 0) return -1;
    if (loop->after >= 0 && open_state(work->states, loop->after, &leaving.after) < 0) return -1;
    if (loop->after < 0 && (leaving.stays = stays(work, state, &leaving.opened, loop)) < 0) return -1;
    for (int b = first_in(&loop->leaving, 0); b < 256; b = first_in(&loop->leaving, b + 1))
        for (int from = 0, to; (from = lists_from(&leaving, from, &to)) < BEFORE; from = to)
            if (leave_by(work, &leaving, b, from, to) < 0) return -1;
    if (far && walk_far(work, &leaving) < 0) return -1;
    return 1;
}

// The tokens whose first byte, one of `first`, leads to `state`, where they go on with a class. 0: they are not told so.
static int fill_round(Work *work, int32_t state, const Bytes *first, int usual) {
    Loop loop;
    int (*const ways[])(States *, const Usual *, int32_t, Loop *) = {find_loop, find_chain};
    int found = 0;
    for (int i = 0; i < 2 && !found; i++) {
        found = ways[i](work->states, &work->tree->usual, state, &loop);
        if (found > 0) found = usual < 0 || loop.usual == usual ? go_round(work, state, first, &loop) : 0;
    }
    return found;
}

// The tokens whose first byte, one of `first`, leads from `state` to `target`.
static int fill_after(Work *work, int32_t state, const Bytes *first, int32_t target) {
    int found = nodes_below(work, first) > SMALL ? fill_round(work, target, first, -1) : 0;
    return found < 0 ? -1 : found ? 0 : walk_roots(work, state, first);
}

// The tokens whose first byte is beyond ASCII.
static int fill_beyond(Work *work, int32_t state, const Bytes *first) {
    static const Bytes beyond = {{0, 0, ~(uint64_t)0, ~(uint64_t)0}};
    Loop loop;
    if (first_in(first, 0) == 256) return 0;
    int32_t after;
    int found = 0, usual = find_beyond(work->states, &work->tree->usual, state, &after);
    if (usual == -1 && (found = find_chain(work->states, &work->tree->usual, state, &loop)) > 0 && (usual = loop.usual) >= 0)
        after = loop.chain.states[loop.chain.count > 1 ? 1 : 0];
    if (usual >= 0) found = fill_round(work, after, &beyond, usual);
    else if (usual < -1 || found < 0) return -1;
    else found = 0;
    return found < 0 ? -1 : found ? 0 : walk_roots(work, state, first);
}

int fill_mask(States *states, Tree *tree, Level *levels, uint8_t *path, int32_t state, uint8_t *bits) {
    static const Bytes ascii = {{~(uint64_t)0, ~(uint64_t)0, 0, 0}};
    if (know(tree) < 0) return -1;
    Work work = {states, tree, tree->known, levels, path, bits};
    Opened opened;
    Bytes beyond = {{0}}, groups[256];
    int32_t targets[256];
    if (open_state(states, state, &opened) < 0) return -1;
    int32_t count = find_moves(states, state, &ascii, targets, groups);
    if (count < 0) return -1;
    for (int32_t group = 0; group < count; group++)
        if (fill_after(&work, state, &groups[group], targets[group]) < 0) return -1;
    for (int32_t part = 0; part < opened.plan->count; part++)
        for (int w = 2; w < 4; w++) beyond.words[w] |= opened.plan->parts[part].bytes.words[w];
    return fill_beyond(&work, state, &beyond);
}
