// SPDX-License-Identifier: Apache-2.0
// What is known of a vocabulary's tokens by their bytes, as masks: which begin with a byte, in which it stands behind
// another, how many characters they have, which are of characters of a usual class. So the tokens of any class that
// differs from a usual one in ASCII are a few operations on masks. And for each byte the nodes of the tree at which it
// stands for the first time behind the first byte: there tokens leave the classes that it does not belong to.

#include "native.h"

#define FEW 768  // tokens up to which there is a list of them and no mask

// What stands on the way to a node.
typedef struct {
    uint64_t ascii[2];
    uint16_t characters, states[MOST_USUAL];
    uint8_t within;
    uint8_t first, last;
} Way;

#define LEFT 0     // states of a class, as tables have them: left it,
#define BETWEEN 1  // and between two of its characters

static Way step(const Tree *tree, const Way *above, const Node *node) {
    Way here = *above;
    here.last = node->byte < 0x80 ? node->byte : BEFORE - 1;
    if (node->depth == 0) {
        here.first = node->byte;
    } else if (node->byte < 0x80) {
        here.ascii[node->byte >> 6] |= (uint64_t)1 << (node->byte & 63);
    }
    here.characters = (uint16_t)(above->characters + ((node->byte & 0xC0) != 0x80 && above->characters < UINT16_MAX));
    here.within = node->byte < 0x80 ? above->within & PLAIN : 0;
    for (int u = 0; u < tree->usual.count; u++) {
        here.states[u] = tree->tables[u][above->states[u] << 8 | node->byte];
        if (here.states[u] == BETWEEN) here.within |= (uint8_t)(1 << u);
    }
    return here;
}

static uint8_t *mask_of(const Known *known, const int32_t *tokens, int32_t count) {
    uint8_t *mask = calloc((size_t)known->bytes, 1);
    for (int32_t i = 0; mask != NULL && i < count; i++) set_bit(mask, tokens[i]);
    return mask;
}

static void unite(uint8_t *restrict into, const uint8_t *restrict mask, Py_ssize_t bytes) {
    for (Py_ssize_t i = 0; i < bytes; i++) into[i] |= mask[i];
}

static void remove_from(uint8_t *restrict into, const uint8_t *restrict mask, Py_ssize_t bytes) {
    for (Py_ssize_t i = 0; i < bytes; i++) into[i] &= (uint8_t)~mask[i];
}

// Goes through the tree; counts what will be in the lists, or fills them when there is room. exits: 0 for each list of
// `exits_of`.
static void survey(const Tree *tree, Known *known, Way *ways, int32_t *exits, int fill) {
    int32_t contained[128], far[MOST_COUNTED + 1], tokens = 0;
    for (int n = 0; n <= MOST_COUNTED; n++) far[n] = fill ? known->far_of[n] : 0;
    for (int b = 0; b < 128; b++) contained[b] = fill ? known->contained[b] : 0;
    ways[0] = (Way){.within = 0xFF};
    for (int u = 0; u < tree->usual.count; u++) ways[0].states[u] = BETWEEN;
    for (int32_t place = 0; place < tree->count; place++) {
        const Node *node = &tree->nodes[place];
        const Way *above = &ways[node->depth];
        Way *here = &ways[node->depth + 1];
        int byte = node->byte;
        *here = step(tree, above, node);
        const Exit exit = {{above->ascii[0], above->ascii[1]}, place, above->characters, above->first, above->within};
        if (above->characters >= MANY && above->characters <= MOST_COUNTED && above->within && (byte & 0xC0) != 0x80) {
            if (fill) known->far[far[above->characters]] = exit;
            far[above->characters]++;
        }
        if (node->depth > 0 && (byte < 0x80 ? above->within && !(above->ascii[byte >> 6] >> (byte & 63) & 1) : above->within & PLAIN)) {
            int list = byte * BEFORE + above->last;
            if (fill) known->exits[known->exits_of[list] + exits[list]] = exit;
            exits[list]++;
        }
        if (node->token < 0) continue;
        if (fill) {
            known->ordered[tokens] = node->token;
            for (int u = 0; u < tree->usual.count; u++)
                if (here->states[u] != LEFT) set_bit(known->usual[u], node->token);
            if (here->within & PLAIN) set_bit(known->usual[tree->usual.count], node->token);
            if (here->characters <= MOST_COUNTED) set_bit(known->up_to[here->characters], node->token);
        }
        if (here->characters > known->longest) known->longest = here->characters;
        tokens++;
        for (int w = 0; w < 2; w++)
            for (uint64_t bits = here->ascii[w]; bits; bits &= bits - 1) {
                int b = 64 * w + __builtin_ctzll(bits);
                if (fill) known->containing[contained[b]] = node->token;
                contained[b]++;
            }
    }
    if (fill) return;
    for (int list = 0; list < 256 * BEFORE; list++) known->exits_of[list + 1] = known->exits_of[list] + exits[list];
    for (int n = 0; n <= MOST_COUNTED; n++) known->far_of[n + 1] = known->far_of[n] + far[n];
    for (int b = 0; b < 128; b++) known->contained[b + 1] = known->contained[b] + contained[b];
}

static void know_roots(const Tree *tree, Known *known) {
    int32_t tokens = 0;
    memset(known->root, -1, sizeof known->root);
    int32_t begun = -1;
    for (int32_t place = 0; place < tree->count; place++) {
        const Node *node = &tree->nodes[place];
        if (node->depth == 0) {
            known->root[node->byte] = place;
            known->below[node->byte] = node->size;
            for (int b = begun + 1; b <= node->byte; b++) known->from[b] = tokens;
            begun = node->byte;
            known->parent[place] = -1;
        }
        tokens += node->token >= 0;
        for (int32_t child = place + 1; child < place + node->size; child += tree->nodes[child].size)
            known->parent[child] = place;
    }
    for (int b = begun + 1; b <= 256; b++) known->from[b] = tokens;
}

static int know_masks(Known *known) {
    for (int b = 0; b < 256; b++) {
        int32_t count = known->from[b + 1] - known->from[b];
        if (count > FEW && (known->first[b] = mask_of(known, known->ordered + known->from[b], count)) == NULL) return -1;
    }
    for (int b = 0; b < 128; b++) {
        const int32_t *tokens = known->containing + known->contained[b];
        int32_t count = known->contained[b + 1] - known->contained[b];
        if (b % 16 == 0 && (known->block[b / 16] = calloc((size_t)known->bytes, 1)) == NULL) return -1;
        for (int32_t i = 0; i < count; i++) set_bit(known->block[b / 16], tokens[i]);
        if (count > FEW && (known->contains[b] = mask_of(known, tokens, count)) == NULL) return -1;
    }
    for (int n = 1; n <= MOST_COUNTED; n++) unite(known->up_to[n], known->up_to[n - 1], known->bytes);
    return 0;
}

static int make_room(const Tree *tree, Known *known) {
    known->exits = malloc(((size_t)known->exits_of[256 * BEFORE] + 1) * sizeof(Exit));
    known->containing = malloc(((size_t)known->contained[128] + 1) * sizeof(int32_t));
    known->far = malloc(((size_t)known->far_of[MOST_COUNTED + 1] + 1) * sizeof(Exit));
    if (known->exits == NULL || known->far == NULL || known->containing == NULL) return -1;
    for (int u = 0; u <= tree->usual.count; u++)
        if ((known->usual[u] = calloc((size_t)known->bytes, 1)) == NULL) return -1;
    for (int n = 0; n <= MOST_COUNTED; n++)
        if ((known->up_to[n] = calloc((size_t)known->bytes, 1)) == NULL) return -1;
    return 0;
}

int know(Tree *tree) {
    if (tree->known != NULL) return 0;
    Known *known = calloc(1, sizeof(Known));
    Way *ways = malloc(((size_t)tree->depth + 1) * sizeof(Way));
    int32_t *exits = calloc(256 * BEFORE, sizeof(int32_t));
    int failed = known == NULL || ways == NULL || exits == NULL;
    if (!failed) {
        known->bytes = ((Py_ssize_t)tree->size + 7) / 8;
        known->parent = malloc(((size_t)tree->count + 1) * sizeof(int32_t));
        known->ordered = malloc(((size_t)tree->count + 1) * sizeof(int32_t));
        failed = known->parent == NULL || known->ordered == NULL;
    }
    if (!failed) {
        know_roots(tree, known);
        survey(tree, known, ways, exits, 0);
        memset(exits, 0, 256 * BEFORE * sizeof(int32_t));
        failed = make_room(tree, known);
    }
    if (!failed) {
        survey(tree, known, ways, exits, 1);
        failed = know_masks(known);
    }
    free(ways);
    free(exits);
    if (failed) {
        forget(known);
        PyErr_NoMemory();
        return -1;
    }
    tree->known = known;
    return 0;
}

void forget(Known *known) {
    if (known == NULL) return;
    free(known->parent);
    free(known->ordered);
    free(known->containing);
    free(known->exits);
    free(known->far);
    for (int b = 0; b < 256; b++) free(known->first[b]);
    for (int b = 0; b < 128; b++) free(known->contains[b]);
    for (int b = 0; b < 8; b++) free(known->block[b]);
    for (int u = 0; u <= MOST_USUAL; u++) free(known->usual[u]);
    for (int n = 0; n <= MOST_COUNTED; n++) free(known->up_to[n]);
    for (int c = 0; c < known->class_count; c++) free(known->classes[c].tokens);
    for (int b = 0; b < known->beginning_count; b++) free(known->beginnings[b].tokens);
    free(known);
}

// -- what is made of it -----------------------------------------------------------------------------------------

static void remove_containing(const Known *known, uint8_t *tokens, int b) {
    if (known->contains[b] != NULL) {
        remove_from(tokens, known->contains[b], known->bytes);
        return;
    }
    for (int32_t i = known->contained[b]; i < known->contained[b + 1]; i++)
        tokens[known->containing[i] >> 3] &= (uint8_t)~(1u << (known->containing[i] & 7));
}

static int is_inside(const uint8_t *tokens, const uint8_t *others, Py_ssize_t bytes) {
    uint8_t outside = 0;
    for (Py_ssize_t i = 0; i < bytes; i++) outside |= (uint8_t)(tokens[i] & ~others[i]);
    return !outside;
}

static int32_t longest_of(const Known *known, const uint8_t *tokens) {
    int32_t low = 0, high = known->longest < MOST_COUNTED ? known->longest : MOST_COUNTED;
    if (known->longest > high && !is_inside(tokens, known->up_to[high], known->bytes)) return known->longest;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (is_inside(tokens, known->up_to[middle], known->bytes)) high = middle;
        else low = middle + 1;
    }
    return low;
}

static int32_t several_of(const Known *known, const uint8_t *tokens) {
    int32_t several = 0;
    for (Py_ssize_t i = 0; i < known->bytes; i++) {
        uint8_t bits = (uint8_t)(tokens[i] & ~known->up_to[1][i]);
        bits = (uint8_t)(bits - (bits >> 1 & 0x55));
        bits = (uint8_t)((bits & 0x33) + (bits >> 2 & 0x33));
        several += (bits + (bits >> 4)) & 0xF;
    }
    return several;
}

// They are kept as long as the tree is, so what comes after many shares the last place.
const Class *class_of(Known *known, const uint64_t *ascii, int usual) {
    for (int c = 0; c < known->class_count; c++) {
        const Class *class = &known->classes[c];
        if (class->ascii[0] == ascii[0] && class->ascii[1] == ascii[1] && class->usual == usual) return class;
    }
    Class *class = &known->classes[known->class_count < MOST_CLASSES ? known->class_count : MOST_CLASSES - 1];
    if (known->class_count < MOST_CLASSES) {
        class->tokens = malloc((size_t)known->bytes);
        if (class->tokens == NULL) return NULL;
        known->class_count++;
    }
    memcpy(class->tokens, known->usual[usual], (size_t)known->bytes);
    for (int b = 0; b < 128; b += 16) {
        uint16_t others = (uint16_t)~(ascii[b >> 6] >> (b & 63));
        if (others == 0xFFFF) remove_from(class->tokens, known->block[b / 16], known->bytes);
        else
            for (; others; others &= (uint16_t)(others - 1)) remove_containing(known, class->tokens, b + __builtin_ctz(others));
    }
    class->ascii[0] = ascii[0];
    class->ascii[1] = ascii[1];
    class->usual = usual;
    class->longest = longest_of(known, class->tokens);
    class->several = several_of(known, class->tokens);
    return class;
}

const uint8_t *beginning_with(Known *known, const Bytes *bytes) {
    for (int i = 0; i < known->beginning_count; i++)
        if (memcmp(&known->beginnings[i].bytes, bytes, sizeof(Bytes)) == 0) return known->beginnings[i].tokens;
    int place = known->beginning_count < MOST_BEGINNINGS ? known->beginning_count : MOST_BEGINNINGS - 1;
    if (place == known->beginning_count) {
        known->beginnings[place].tokens = malloc((size_t)known->bytes);
        if (known->beginnings[place].tokens == NULL) return NULL;
        known->beginning_count++;
    }
    uint8_t *tokens = known->beginnings[place].tokens;
    memset(tokens, 0, (size_t)known->bytes);
    for (int b = first_in(bytes, 0); b < 256; b = first_in(bytes, b + 1)) {
        if (known->first[b] != NULL) unite(tokens, known->first[b], known->bytes);
        else
            for (int32_t i = known->from[b]; i < known->from[b + 1]; i++) set_bit(tokens, known->ordered[i]);
    }
    known->beginnings[place].bytes = *bytes;
    return tokens;
}
