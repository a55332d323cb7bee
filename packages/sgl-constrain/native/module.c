// SPDX-License-Identifier: Apache-2.0
// The module: its types.

#include "native.h"

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int module_exec(PyObject *module) {
    Types *types = PyModule_GetState(module);
    if (add_type(module, &tree_spec, &types->tree) < 0 ||
        add_type(module, &continuations_spec, &types->continuations) < 0 ||
        add_type(module, &states_spec, &types->states) < 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    Types *types = PyModule_GetState(module);
    Py_VISIT(types->tree);
    Py_VISIT(types->continuations);
    Py_VISIT(types->states);
    return 0;
}

static int module_clear(PyObject *module) {
    Types *types = PyModule_GetState(module);
    Py_CLEAR(types->tree);
    Py_CLEAR(types->continuations);
    Py_CLEAR(types->states);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};
static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_native", "What grammars spend their time on.", sizeof(Types), NULL,
    module_slots,          module_traverse, module_clear, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module_def); }
