/*
 * entry.c: a process as an object in C, and the cell that owns it there.
 */
#include "ledger.h"

#include <stddef.h>
#include <structmember.h>

static entry_givens given;
static PyObject *cell_type, *entry_type;

void entry_put(PyObject **where, PyObject *value) {
    PyObject *old = *where;
    *where = Py_NewRef(value);
    Py_XDECREF(old);
}

/* ---- cells ----------------------------------------------------------------------- */

static void cell_dealloc(Cell *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    library_of_ledger.free(self->owner.proc);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *cell_address(Cell *self, void *closure) {
    (void)closure;
    return PyLong_FromVoidPtr(&self->owner);
}

/* The `fp_proc *`, good as long as the cell is there. */
static PyObject *cell_proc(Cell *self, void *closure) {
    (void)closure;
    PyObject *address = PyLong_FromVoidPtr(self->owner.proc);
    PyObject *pointer = address ? PyObject_CallFunctionObjArgs(given.pointer_to, address, NULL) : NULL;
    Py_XDECREF(address);
    return pointer;
}

/* What wraps the cell has gone: with it its reference to us. */
static PyObject *cell_let_go(PyObject *self, PyObject *pointer) {
    (void)self;
    (void)pointer;
    Py_RETURN_NONE;
}

static PyMemberDef cell_members[] = {
    {"stand", T_LONGLONG, offsetof(Cell, owner.stand), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef cell_getset[] = {
    {"address", (getter)cell_address, NULL, NULL, NULL},
    {"proc", (getter)cell_proc, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef cell_methods[] = {
    {"let_go", cell_let_go, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot cell_slots[] = {
    {Py_tp_dealloc, cell_dealloc},
    {Py_tp_members, cell_members},
    {Py_tp_getset, cell_getset},
    {Py_tp_methods, cell_methods},
    {0, NULL},
};
static PyType_Spec cell_spec = {
    .name = "fastproc._native._direct.Cell",
    .basicsize = sizeof(Cell),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = cell_slots,
};

/* ---- entries --------------------------------------------------------------------- */

static PyObject *entry_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *roster, *task_id, *what;
    (void)keywords;
    if (!PyArg_UnpackTuple(args, "Entry", 3, 3, &roster, &task_id, &what))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    Entry *self = (Entry *)allocate(type, 0);
    if (!self)
        return NULL;
    self->task_id = Py_NewRef(task_id);
    self->error = Py_NewRef(Py_None);
    self->what = Py_NewRef(what);
    self->roster = Py_NewRef(roster);
    self->status = Py_NewRef(Py_None);
    self->callbacks = Py_NewRef(Py_None);
    self->token = PyLong_FromLong(0);
    return (PyObject *)self;
}

static int entry_traverse(Entry *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->task_id);
    Py_VISIT(self->error);
    Py_VISIT(self->what);
    Py_VISIT(self->roster);
    Py_VISIT(self->status);
    Py_VISIT(self->callbacks);
    return 0;
}

/* The owner stays: what runs later in the same garbage may still ask how it is, see owners.py. */
static int entry_clear(Entry *self) {
    Py_CLEAR(self->task_id);
    Py_CLEAR(self->error);
    Py_CLEAR(self->what);
    Py_CLEAR(self->roster);
    Py_CLEAR(self->status);
    Py_CLEAR(self->callbacks);
    return 0;
}

static void entry_dealloc(Entry *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    entry_clear(self);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->token);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

/* As cffi has it; see owners.py. */
static PyObject *entry_owner(Entry *self, void *closure) {
    (void)closure;
    PyObject *had = self->owner;
    if (had && !Py_IS_TYPE(had, (PyTypeObject *)cell_type))
        return Py_NewRef(had);
    PyObject *made = had ? PyObject_CallFunctionObjArgs(given.wrap_cell, had, NULL)
                         : PyObject_CallFunctionObjArgs(given.make_owner, given.owner_kind, NULL);
    if (!made)
        return NULL;
    /* Another thread may have been faster; then that counts. */
    if (self->owner == had) {
        self->owner = made;
        Py_XDECREF(had);
    } else {
        Py_DECREF(made);
    }
    return Py_NewRef(self->owner);
}

/* The same for a status, which has no need of cffi. */
static PyObject *entry_source(Entry *self, void *closure) {
    return self->owner ? Py_NewRef(self->owner) : entry_owner(self, closure);
}

proc_owner *entry_place(Entry *self) {
    if (!self->at && self->owner) {
        PyObject *address = PyObject_CallFunctionObjArgs(given.address_of, self->owner, NULL);
        self->at = address ? PyLong_AsVoidPtr(address) : NULL;
        Py_XDECREF(address);
    }
    return self->at;
}

proc_owner *entry_place_made(Entry *self) {
    if (!self->owner) {
        allocfunc allocate = PyType_GetSlot((PyTypeObject *)cell_type, Py_tp_alloc);
        Cell *cell = (Cell *)allocate((PyTypeObject *)cell_type, 0);
        if (!cell)
            return NULL;
        self->owner = (PyObject *)cell;
        self->at = &cell->owner;
    }
    return entry_place(self);
}

/* Whether its start is over, or at least in the hands of the library. */
static PyObject *entry_born(Entry *self, void *closure) {
    (void)closure;
    const proc_owner *at = entry_place(self);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(at && __atomic_load_n(&at->proc, __ATOMIC_ACQUIRE));
}

/* Its pid, also when it has ended; 0 before it is started. */
static PyObject *entry_pid(Entry *self, void *closure) {
    (void)closure;
    const proc_owner *at = entry_place(self);
    fp_proc *proc = at ? __atomic_load_n(&at->proc, __ATOMIC_ACQUIRE) : NULL;
    int pid = proc ? library_of_ledger.pid(proc) : 0;
    return PyErr_Occurred() ? NULL : PyLong_FromLong(pid > 0 ? pid : 0);
}

static PyMemberDef entry_members[] = {
    {"task_id", T_OBJECT_EX, offsetof(Entry, task_id), 0, NULL},
    {"error", T_OBJECT_EX, offsetof(Entry, error), 0, NULL},
    {"_what", T_OBJECT_EX, offsetof(Entry, what), 0, NULL},
    {"_roster", T_OBJECT_EX, offsetof(Entry, roster), 0, NULL},
    {"_token", T_OBJECT_EX, offsetof(Entry, token), 0, NULL},
    {"_status", T_OBJECT_EX, offsetof(Entry, status), 0, NULL},
    {"_callbacks", T_OBJECT_EX, offsetof(Entry, callbacks), 0, NULL},
    {"_starter", T_ULONG, offsetof(Entry, starter), 0, NULL},
    {"_flags", T_INT, offsetof(Entry, flags), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef entry_getset[] = {
    {"_owner", (getter)entry_owner, NULL, NULL, NULL},
    {"_source", (getter)entry_source, NULL, NULL, NULL},
    {"_born", (getter)entry_born, NULL, NULL, NULL},
    {"_pid", (getter)entry_pid, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot entry_slots[] = {
    {Py_tp_new, entry_new},
    {Py_tp_traverse, entry_traverse},
    {Py_tp_clear, entry_clear},
    {Py_tp_dealloc, entry_dealloc},
    {Py_tp_members, entry_members},
    {Py_tp_getset, entry_getset},
    {0, NULL},
};
static PyType_Spec entry_spec = {
    .name = "fastproc._native._direct.Entry",
    .basicsize = sizeof(Entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = entry_slots,
};

/* ---- for the others -------------------------------------------------------------- */

Entry *entry_of(PyObject *object) {
    if (PyObject_TypeCheck(object, (PyTypeObject *)entry_type))
        return (Entry *)object;
    PyErr_SetString(PyExc_TypeError, "not an Entry");
    return NULL;
}

void entry_set_up(const entry_givens *givens) {
    PyObject *const *from = (PyObject *const *)givens;
    PyObject **to = (PyObject **)&given;

    for (size_t i = 0; i < sizeof given / sizeof *to; i++)
        entry_put(&to[i], from[i]);
}

int entry_add_to(PyObject *module) {
    cell_type = PyType_FromSpec(&cell_spec);
    entry_type = PyType_FromSpec(&entry_spec);
    return cell_type && entry_type ? PyModule_AddObjectRef(module, "Entry", entry_type) : -1;
}
