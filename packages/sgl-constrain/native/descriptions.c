// SPDX-License-Identifier: Apache-2.0
// What an expression is, as Python describes it when it is first met: a tuple of its kind and numbers. The points of a
// list are described with it.

#include "native.h"

// Remembers a description; `numbers` become those of the expression.
static int remember(Continuations *self, int32_t expression, long kind, int32_t *numbers, Py_ssize_t count) {
    if (expression >= self->described) {
        Py_ssize_t described = self->described ? self->described : 256;
        while (described <= expression) described *= 2;
        Expression *grown = realloc(self->expressions, (size_t)described * sizeof(Expression));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memset(grown + self->described, 0, (size_t)(described - self->described) * sizeof(Expression));
        self->expressions = grown;
        self->described = described;
    }
    if (self->expressions[expression].numbers == NULL)  // else it was described meanwhile, and is perhaps in use
        self->expressions[expression] = (Expression){numbers, (int32_t)count, (uint8_t)kind};
    return 0;
}

// The points of a list, whose numbers they share.
static int remember_points(Continuations *self, int32_t *numbers, Py_ssize_t count) {
    if (remember(self, numbers[FIRST] + REST_OF_LIST, LATER, numbers, 0) < 0) return -1;
    for (int32_t i = 0; i < count - MEMBERS; i++)
        if (remember(self, numbers[FIRST] + POINTS + i, KEYS + i % OF_MEMBER, numbers, i / OF_MEMBER) < 0) return -1;
    return 0;
}

const Expression *described(const Continuations *self, int32_t expression) {
    if (expression >= self->described || self->expressions[expression].numbers == NULL) return NULL;
    return &self->expressions[expression];
}

int describe(Continuations *self, int32_t expression) {
    if (described(self, expression) != NULL) return 0;
    PyObject *answer = ask(self->describe, expression);
    if (answer == NULL) return -1;
    Py_ssize_t count = PyTuple_Check(answer) ? PyTuple_Size(answer) : 0;
    int32_t *numbers = count > 0 && count < INT32_MAX ? lasting(&self->blocks, (size_t)count * sizeof(int32_t)) : NULL;
    long kind = -1;
    for (Py_ssize_t i = 0; numbers != NULL && i < count && !PyErr_Occurred(); i++) {
        long value = PyLong_AsLong(PyTuple_GetItem(answer, i));
        if (i == 0) {
            kind = value;
        } else if (value < -1 || value > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a number of an expression is out of range");
        } else {
            numbers[i - 1] = (int32_t)value;
        }
    }
    Py_DECREF(answer);
    // What is relied on: the shape of each kind, and no number below 0 but the first of WORDS and the last of REPEAT.
    Py_ssize_t given = count - 1;
    int right = numbers != NULL && !PyErr_Occurred() && kind >= OPTIONS && kind <= LISTED &&
                (kind != CHARACTER || given == 1) && (kind != PRODUCT || given == 3) && (kind != REPEAT || given == 3 || given == 5) &&
                (kind != WORDS || given % 2 == 1) && (kind != LISTED || given > MEMBERS);
    for (Py_ssize_t i = kind == WORDS; right && i < given; i++) right = numbers[i] >= 0 || (kind == REPEAT && i == 4);
    if (right && kind == LISTED)
        right = numbers[FIRST] <= INT32_MAX / 2 && given < INT32_MAX / 2 && given == MEMBERS + (int64_t)OF_MEMBER * numbers[COUNT];
    if (!right) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an expression was described wrongly");
        return -1;
    }
    if (kind == LISTED && remember_points(self, numbers, given) < 0) return -1;
    return remember(self, expression, kind, numbers, given);
}

int character_of(Continuations *self, int32_t expression, int64_t *head) {
    if (describe(self, expression) < 0) return -1;
    const Expression *node = &self->expressions[expression];
    if (node->kind != CHARACTER) return 0;
    *head = node->numbers[0];
    return 1;
}

int told_counts(const Continuations *self, int32_t expression, Repetition *found) {
    const Expression *node = described(self, expression);
    if (node == NULL) return 0;
    *found = (Repetition){-1, {0, 0}};
    if (node->kind == REPEAT && node->count == 5)
        *found = (Repetition){node->numbers[0], {node->numbers[3], node->numbers[4]}};
    return 1;
}
