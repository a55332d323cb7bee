// SPDX-License-Identifier: Apache-2.0
// Masks told by the words of 64 bits in which they differ from another mask, or from none set: most have few such
// words, and so take a tenth of the memory, which would be fresh pages for each. First the words, then their places.

#include "native.h"

#define MOST_DIFFERENT 192

typedef struct {
    uint64_t words[MOST_DIFFERENT];
    uint32_t places[MOST_DIFFERENT];
    int count;
} Differing;

static uint64_t word_at(const Py_buffer *view, Py_ssize_t place) {
    uint64_t word = 0;
    Py_ssize_t from = 8 * place, bytes = view->len - from < 8 ? view->len - from : 8;
    memcpy(&word, (const uint8_t *)view->buf + from, (size_t)bytes);
    return word;
}

// Are there no more than MOST_DIFFERENT?
static int find_differing(const Py_buffer *mask, const Py_buffer *base, Differing *found) {
    found->count = 0;
    Py_ssize_t words = (mask->len + 7) / 8;
    for (Py_ssize_t i = 0; i < words;) {
        Py_ssize_t end = i + 8;
        if (8 * end <= mask->len) {  // a line of them at once
            static const uint8_t nothing[64] = {0};
            const uint8_t *other = base == NULL ? nothing : (const uint8_t *)base->buf + 8 * i;
            if (memcmp((const uint8_t *)mask->buf + 8 * i, other, 64) == 0) {
                i = end;
                continue;
            }
        } else {
            end = words;
        }
        for (; i < end; i++) {
            uint64_t word = word_at(mask, i);
            if (word == (base == NULL ? 0 : word_at(base, i))) continue;
            if (found->count == MOST_DIFFERENT) return 0;
            found->words[found->count] = word;
            found->places[found->count++] = (uint32_t)i;
        }
    }
    return 1;
}

static PyObject *packed(const Differing *found) {
    char bytes[sizeof found->words + sizeof found->places];
    size_t in_words = (size_t)found->count * sizeof(uint64_t), in_places = (size_t)found->count * sizeof(uint32_t);
    memcpy(bytes, found->words, in_words);
    memcpy(bytes + in_words, found->places, in_places);
    return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)(in_words + in_places));
}

// -- digests ----------------------------------------------------------------------------------------------------

typedef uint64_t Words __attribute__((vector_size(16)));  // what every processor adds at once

typedef struct {
    Words of[4], of_sums[4];
} Sums;

static void sum_up(Sums *to, const uint8_t *bytes, Py_ssize_t lines) {
    Sums sums = *to;
    for (Py_ssize_t i = 0; i < lines; i++, bytes += sizeof sums.of)
        for (int w = 0; w < 4; w++) {
            Words words;
            memcpy(&words, bytes + 16 * w, sizeof words);
            sums.of[w] += words ^ words >> 32;  // so that sums of sums do not lose the upper bits
            sums.of_sums[w] += sums.of[w];
        }
    *to = sums;
}

// Of sums of words, and sums of these: other bytes with equal ones may be made, and are seldom met. 32 bytes, which no
// packed mask has.
static PyObject *digest(const Py_buffer *view) {
    Sums sums = {{{(uint64_t)view->len}}, {{0}}};
    uint8_t rest[sizeof sums.of] = {0};
    Py_ssize_t lines = view->len / (Py_ssize_t)sizeof rest, whole = lines * (Py_ssize_t)sizeof rest;
    sum_up(&sums, view->buf, lines);
    memcpy(rest, (const uint8_t *)view->buf + whole, (size_t)(view->len - whole));
    sum_up(&sums, rest, 1);
    uint64_t parts[4] = {0};
    for (int w = 0; w < 8; w++) {
        uint64_t *part = &parts[w & 3];
        *part = (*part ^ sums.of[w >> 1][w & 1]) * 0x9E3779B97F4A7C15u;
        *part = (*part ^ *part >> 29 ^ sums.of_sums[w >> 1][w & 1]) * 0xD6E8FEB86659FD93u;
        *part ^= *part >> 32;
    }
    return PyBytes_FromStringAndSize((char *)parts, sizeof parts);
}

// -- what Python may ask ----------------------------------------------------------------------------------------

// Masks, held until they are released; the second may be None. On failure nothing is held.
static int hold(PyObject *const *given, int count, Py_buffer *views) {
    for (int i = 0; i < count; i++) {
        views[i].obj = NULL;
        if ((i && given[i] == Py_None) || PyObject_GetBuffer(given[i], &views[i], PyBUF_C_CONTIGUOUS) == 0) continue;
        while (i-- > 0)
            if (views[i].obj != NULL) PyBuffer_Release(&views[i]);
        return -1;
    }
    return 0;
}

static void let_go(Py_buffer *views, int count) {
    for (int i = 0; i < count; i++)
        if (views[i].obj != NULL) PyBuffer_Release(&views[i]);
}

PyObject *tree_key(PyObject *self, PyObject *given) {
    Py_buffer view;
    Differing found;
    (void)self;
    if (hold(&given, 1, &view) < 0) return NULL;
    PyObject *key = find_differing(&view, NULL, &found) ? packed(&found) : digest(&view);
    let_go(&view, 1);
    return key;
}

PyObject *tree_differing(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer views[2];
    Differing found;
    PyObject *answer = NULL;
    (void)self;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "differing(mask, base) takes 2 arguments");
    if (hold(args, 2, views) < 0) return NULL;
    const Py_buffer *base = views[1].obj == NULL ? NULL : &views[1];
    if (base != NULL && base->len != views[0].len) {
        PyErr_SetString(PyExc_ValueError, "two masks must have one length");
    } else {
        answer = find_differing(&views[0], base, &found) ? packed(&found) : Py_NewRef(Py_None);
    }
    let_go(views, 2);
    return answer;
}

// Writes `bytes` of `out`. -1: the mask is another.
static int restore(uint8_t *out, Py_ssize_t bytes, const Py_buffer *base, const char *packed, Py_ssize_t length) {
    Py_ssize_t count = length / 12;
    if (length % 12 || (base != NULL && base->len != bytes)) return -1;
    if (base == NULL) memset(out, 0, (size_t)bytes);
    else memcpy(out, base->buf, (size_t)bytes);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t place;
        memcpy(&place, packed + 8 * count + 4 * i, sizeof place);
        Py_ssize_t from = 8 * (Py_ssize_t)place;
        if (from >= bytes) return -1;
        memcpy(out + from, packed + 8 * i, (size_t)(bytes - from < 8 ? bytes - from : 8));
    }
    return 0;
}

// The arguments: (words, base), out, row.
PyObject *tree_restore(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_buffer out, base = {.obj = NULL};
    char *packed;
    Py_ssize_t length, bytes = ((Py_ssize_t)((const Tree *)self)->size + 31) / 32 * 4;
    if (count != 3 || !PyTuple_Check(args[0]) || PyTuple_Size(args[0]) != 2)
        return PyErr_Format(PyExc_TypeError, "restore(mask, out, row) takes words and a base, an array and a number");
    PyObject *other = PyTuple_GetItem(args[0], 1);
    Py_ssize_t row = PyNumber_AsSsize_t(args[2], PyExc_IndexError);
    if ((row == -1 && PyErr_Occurred()) || PyBytes_AsStringAndSize(PyTuple_GetItem(args[0], 0), &packed, &length) < 0) return NULL;
    if (PyObject_GetBuffer(args[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return NULL;
    if (out.itemsize != 4 || out.ndim != 2 || out.shape[1] * 4 != bytes) {
        PyErr_SetString(PyExc_ValueError, "out must have a word of 32 bits for each of the mask's in a row");
    } else if ((row < 0 ? row += out.shape[0] : row) < 0 || row >= out.shape[0]) {
        PyErr_SetString(PyExc_IndexError, "out has no such row");
    } else if (other == Py_None || PyObject_GetBuffer(other, &base, PyBUF_C_CONTIGUOUS) == 0) {
        if (restore((uint8_t *)out.buf + row * bytes, bytes, base.obj == NULL ? NULL : &base, packed, length) < 0)
            PyErr_SetString(PyExc_ValueError, "the mask is of another vocabulary");
        let_go(&base, 1);
    }
    PyBuffer_Release(&out);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}
