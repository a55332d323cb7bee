// SPDX-License-Identifier: Apache-2.0
// Arrays that grow, lists and sets of numbers, and sequences of numbers that are kept once. Know nothing of what they
// number.

#include "native.h"

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

int push(Numbers *numbers, int64_t value) {
    if (numbers->count == numbers->capacity) {
        Py_ssize_t capacity = numbers->capacity ? 2 * numbers->capacity : 64;
        int64_t *grown = realloc(numbers->values, (size_t)capacity * sizeof(int64_t));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        numbers->values = grown;
        numbers->capacity = capacity;
    }
    numbers->values[numbers->count++] = value;
    return 0;
}

int push_all(Numbers *numbers, PyObject *values) {
    PyObject *each = PyObject_GetIter(values);
    if (each == NULL) return -1;
    int failed = 0;
    for (PyObject *value; !failed && (value = PyIter_Next(each)) != NULL; Py_DECREF(value)) {
        long long number = PyLong_AsLongLong(value);
        failed = (number == -1 && PyErr_Occurred()) || push(numbers, number) < 0;
    }
    Py_DECREF(each);
    return failed || PyErr_Occurred() ? -1 : 0;
}

static int in_order(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

#define FEW 24  // numbers up to which they are sorted in place, one after another

void sort_distinct(Numbers *numbers) {
    int64_t *values = numbers->values;
    if (numbers->count < 2) return;
    if (numbers->count > FEW) {
        qsort(values, (size_t)numbers->count, sizeof(int64_t), in_order);
    } else {
        for (Py_ssize_t i = 1; i < numbers->count; i++) {
            int64_t value = values[i];
            Py_ssize_t j = i;
            for (; j > 0 && values[j - 1] > value; j--) values[j] = values[j - 1];
            values[j] = value;
        }
    }
    Py_ssize_t kept = 1;
    for (Py_ssize_t i = 1; i < numbers->count; i++)
        if (values[i] != values[i - 1]) values[kept++] = values[i];
    numbers->count = kept;
}

PyObject *tuple_of(const int64_t *values, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *value = PyLong_FromLongLong(values[i]);
        if (value == NULL || PyTuple_SetItem(tuple, i, value) < 0) Py_CLEAR(tuple);
    }
    return tuple;
}

uint64_t mixed(int32_t a, int32_t b) {
    uint64_t x = ((uint64_t)(uint32_t)a << 32 | (uint32_t)b) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static size_t place_in(const Numbers *set, int64_t value) {
    size_t wrap = (size_t)(set->capacity - 1), slot = mixed((int32_t)value, (int32_t)(value >> 32)) & wrap;
    while (set->values[slot] >= 0 && set->values[slot] != value) slot = (slot + 1) & wrap;
    return slot;
}

int contains(const Numbers *set, int64_t value) {
    return set->capacity && set->values[place_in(set, value)] == value;
}

int add(Numbers *set, int64_t value) {
    if (2 * set->count >= set->capacity) {
        Numbers grown = {NULL, set->count, set->capacity ? 2 * set->capacity : 32};
        grown.values = malloc((size_t)grown.capacity * sizeof(int64_t));
        if (grown.values == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t i = 0; i < grown.capacity; i++) grown.values[i] = -1;
        for (Py_ssize_t i = 0; i < set->capacity; i++)
            if (set->values[i] >= 0) grown.values[place_in(&grown, set->values[i])] = set->values[i];
        free(set->values);
        *set = grown;
    }
    size_t slot = place_in(set, value);
    set->count += set->values[slot] < 0;
    set->values[slot] = value;
    return 0;
}

// -- Blocks -----------------------------------------------------------------------------------------------------

#define BLOCK 500  // values

void *lasting(Blocks *blocks, size_t bytes) {
    Py_ssize_t count = (Py_ssize_t)(bytes / sizeof(int64_t)) + 1;
    if (blocks->last == NULL || blocks->room - blocks->used < count) {
        Py_ssize_t room = count < BLOCK ? BLOCK : count + 1;
        int64_t *block = malloc((size_t)room * sizeof(int64_t));
        if (block == NULL) return PyErr_NoMemory();
        memcpy(block, &blocks->last, sizeof blocks->last);
        *blocks = (Blocks){block, 1, room};
    }
    blocks->used += count;
    return blocks->last + blocks->used - count;
}

void blocks_drop(Blocks *blocks) {
    while (blocks->last != NULL) {
        int64_t *before;
        memcpy(&before, blocks->last, sizeof before);
        free(blocks->last);
        blocks->last = before;
    }
    *blocks = (Blocks){0};
}

PyObject *ask(PyObject *callable, long long number) {
    PyObject *argument = PyLong_FromLongLong(number);
    PyObject *answer = argument == NULL ? NULL : PyObject_CallFunctionObjArgs(callable, argument, NULL);
    Py_XDECREF(argument);
    return answer;
}

// -- Pool -------------------------------------------------------------------------------------------------------

static uint32_t hash_of(const int64_t *values, Py_ssize_t count) {
    uint64_t hash = (uint64_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        hash = (hash ^ (uint64_t)values[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

// Where a sequence is in `slots`, or would be; there is a free slot.
static size_t pool_slot(const Pool *pool, const int64_t *values, Py_ssize_t count, uint32_t hash) {
    size_t wrap = (size_t)(pool->slot_count - 1), slot = hash & wrap;
    for (; pool->slots[slot]; slot = (slot + 1) & wrap) {
        const Sequence *known = &pool->all[pool->slots[slot] - 1];
        if (known->hash == hash && known->count == count &&
            (count == 0 || memcmp(known->values, values, (size_t)count * sizeof(int64_t)) == 0))
            break;
    }
    return slot;
}

int32_t pool_find(const Pool *pool, const int64_t *values, Py_ssize_t count) {
    if (!pool->slot_count) return -1;
    return pool->slots[pool_slot(pool, values, count, hash_of(values, count))] - 1;
}

static int pool_more_slots(Pool *pool) {
    Py_ssize_t count = pool->slot_count ? 2 * pool->slot_count : 64;
    int32_t *slots = calloc((size_t)count, sizeof(int32_t));
    if (slots == NULL) return -1;
    for (Py_ssize_t i = 0; i < pool->count; i++) {
        size_t slot = pool->all[i].hash & (size_t)(count - 1);
        while (slots[slot]) slot = (slot + 1) & (size_t)(count - 1);
        slots[slot] = (int32_t)i + 1;
    }
    free(pool->slots);
    pool->slots = slots;
    pool->slot_count = count;
    return 0;
}

int32_t pool_add(Pool *pool, const int64_t *values, Py_ssize_t count) {
    int64_t *kept = NULL;
    if (pool->count == pool->capacity) {
        Py_ssize_t capacity = pool->capacity ? 2 * pool->capacity : 32;
        Sequence *grown =
            capacity < INT32_MAX / 2 ? realloc(pool->all, (size_t)capacity * sizeof(Sequence)) : NULL;
        if (grown == NULL) goto failed;
        pool->all = grown;
        pool->capacity = capacity;
    }
    if (2 * pool->count >= pool->slot_count && pool_more_slots(pool) < 0) goto failed;
    uint32_t hash = hash_of(values, count);
    size_t slot = pool_slot(pool, values, count, hash);
    if (pool->slots[slot]) return pool->slots[slot] - 1;
    if (count >= INT32_MAX || (kept = lasting(&pool->blocks, (size_t)count * sizeof(int64_t))) == NULL) goto failed;
    if (count) memcpy(kept, values, (size_t)count * sizeof(int64_t));
    pool->all[pool->count] = (Sequence){kept, (int32_t)count, hash};
    pool->slots[slot] = (int32_t)++pool->count;
    return (int32_t)pool->count - 1;
failed:
    PyErr_NoMemory();
    return -1;
}

void pool_drop(Pool *pool) {
    blocks_drop(&pool->blocks);
    free(pool->all);
    free(pool->slots);
    *pool = (Pool){0};
}
