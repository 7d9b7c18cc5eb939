/*
 * ledger.c: the processes of one manager and each of them, as objects in C, and
 * the two things that are done with nearly every one: a start of which nothing
 * is said but its arguments, and a wait for its end.
 *
 * Behind a start the caches are cold, and what Python did before and after it
 * took as long as a fifth of the start itself: see docs/adr/0023. The long
 * way, for all that is not plain or not quiet, is in Python: roster.py,
 * starting.py. Whoever is here decides before anything has happened, and leaves
 * it all to the long way if there is anything to see to.
 *
 * The lock of the ledger is Python's, and taken here as well, without waiting;
 * the long way waits for it. While it is held no signal handler runs, as we do
 * not go back to the interpreter.
 */
#include "direct.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* As in glue.h. */
typedef struct {
    fp_proc *proc;
    int64_t stand;
    fp_failure failure;
} proc_owner;
typedef struct {
    fp_env *env;
} env_owner;

/* What has been told, see child.py. */
enum { HEARD = 32, STARTS_PER_DRAIN = 32 };
/* Of a stand, see glue.h. */
enum { STAND_STATE = 7, STAND_FLAGS = 3, STAND_CODE = 24 };

static struct {
    int (*start)(void *starts, proc_owner *owner, const char *args, size_t args_bytes, env_owner *env, uint64_t token);
    int64_t (*wait)(void *starts, proc_owner *owner, int64_t timeout_ns);
    void (*hear)(void *starts, proc_owner *owner);
    fp_proc *(*free)(fp_proc *);
} library;

/* From Python: owners.py, environment.py, status.py; and, once there is an engine, roster.py, starting.py. */
static PyObject *make_owner, *owner_kind, *wrap_cell, *address_of, *pointer_to, *status_type;
static PyObject *next_token, *levels, *level, *fail;
static environment packed;

static PyObject *word_acquire, *word_release, *word_telling, *word_drain, *word_announce, *word_relax, *word_source,
    *word_code, *word_by_task, *word_in_order, *word_append, *word_unheard, *word_count_at_most, *word_forget_oldest,
    *word_captures;

static PyObject *cell_type, *entry_type, *ledger_type;

static void put(PyObject **where, PyObject *value) {
    PyObject *old = *where;
    *where = Py_NewRef(value);
    Py_XDECREF(old);
}

/* ---- cells: owners that cffi knows nothing of -------------------------------------- */

typedef struct {
    PyObject_HEAD proc_owner owner;
} Cell;

static void cell_dealloc(Cell *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    library.free(self->owner.proc);
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
    PyObject *pointer = address ? PyObject_CallFunctionObjArgs(pointer_to, address, NULL) : NULL;
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

/* ---- entries: one process ------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD PyObject *task_id;
    PyObject *error;
    PyObject *what;
    PyObject *roster;
    PyObject *owner; /* a Cell, or one of cffi's; NULL: not asked for yet */
    PyObject *token;
    PyObject *status;
    PyObject *callbacks;
    proc_owner *at; /* in `owner`; NULL: see place_of() */
    unsigned long starter;
    int flags;
} Entry;

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
    PyObject *made = had ? PyObject_CallFunctionObjArgs(wrap_cell, had, NULL)
                         : PyObject_CallFunctionObjArgs(make_owner, owner_kind, NULL);
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

/* Where its `proc_owner` is. NULL: it has none, or with an exception. */
static proc_owner *place_of(Entry *self) {
    if (!self->at && self->owner) {
        PyObject *address = PyObject_CallFunctionObjArgs(address_of, self->owner, NULL);
        self->at = address ? PyLong_AsVoidPtr(address) : NULL;
        Py_XDECREF(address);
    }
    return self->at;
}

/* Whether its start is over, or at least in the hands of the library. */
static PyObject *entry_born(Entry *self, void *closure) {
    (void)closure;
    const proc_owner *at = place_of(self);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(at && __atomic_load_n(&at->proc, __ATOMIC_ACQUIRE));
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

/* ---- ledgers: the processes of one manager ------------------------------------------------ */

typedef struct {
    PyObject_HEAD PyObject *lock;
    PyObject *active;   /* by name */
    PyObject *by_token;
    PyObject *finished;
    PyObject *dispatcher;
    PyObject *cancels;
    PyObject *specs;    /* None: nothing can be started */
    unsigned long long starts_at; /* the `starts *` of the specs; kept when those have gone, for who waits */
    unsigned long starts;
    char closed;
    char special;
    char forgotten;
} Ledger;

static PyObject *ledger_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args;
    (void)keywords;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

static int ledger_init(PyObject *self, PyObject *args, PyObject *keywords) {
    (void)self;
    (void)args;
    (void)keywords;
    return 0;
}

static int ledger_traverse(Ledger *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->lock);
    Py_VISIT(self->active);
    Py_VISIT(self->by_token);
    Py_VISIT(self->finished);
    Py_VISIT(self->dispatcher);
    Py_VISIT(self->cancels);
    Py_VISIT(self->specs);
    return 0;
}

static int ledger_clear(Ledger *self) {
    Py_CLEAR(self->lock);
    Py_CLEAR(self->active);
    Py_CLEAR(self->by_token);
    Py_CLEAR(self->finished);
    Py_CLEAR(self->dispatcher);
    Py_CLEAR(self->cancels);
    Py_CLEAR(self->specs);
    return 0;
}

static void ledger_dealloc(Ledger *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    ledger_clear(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

static PyMemberDef ledger_members[] = {
    {"lock", T_OBJECT_EX, offsetof(Ledger, lock), 0, NULL},
    {"active", T_OBJECT_EX, offsetof(Ledger, active), 0, NULL},
    {"by_token", T_OBJECT_EX, offsetof(Ledger, by_token), 0, NULL},
    {"finished", T_OBJECT_EX, offsetof(Ledger, finished), 0, NULL},
    {"dispatcher", T_OBJECT_EX, offsetof(Ledger, dispatcher), 0, NULL},
    {"_cancels", T_OBJECT_EX, offsetof(Ledger, cancels), 0, NULL},
    {"specs", T_OBJECT_EX, offsetof(Ledger, specs), 0, NULL},
    {"_starts_at", T_ULONGLONG, offsetof(Ledger, starts_at), 0, NULL},
    {"starts", T_ULONG, offsetof(Ledger, starts), 0, NULL},
    {"closed", T_BOOL, offsetof(Ledger, closed), 0, NULL},
    {"special", T_BOOL, offsetof(Ledger, special), 0, NULL},
    {"_forgotten", T_BOOL, offsetof(Ledger, forgotten), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot ledger_slots[] = {
    {Py_tp_new, ledger_new},
    {Py_tp_init, ledger_init},
    {Py_tp_traverse, ledger_traverse},
    {Py_tp_clear, ledger_clear},
    {Py_tp_dealloc, ledger_dealloc},
    {Py_tp_members, ledger_members},
    {0, NULL},
};
static PyType_Spec ledger_spec = {
    .name = "fastproc._native._direct.Ledger",
    .basicsize = sizeof(Ledger),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = ledger_slots,
};

/* 1: it is ours now, 0: somebody has it, -1. */
static int take_lock(const Ledger *ledger) {
    PyObject *taken = PyObject_CallMethodObjArgs(ledger->lock, word_acquire, Py_False, NULL);
    if (!taken)
        return -1;
    int is_ours = taken == Py_True;
    Py_DECREF(taken);
    return is_ours;
}

/* With whatever exception there is. */
static void give_lock(const Ledger *ledger) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *given = PyObject_CallMethodObjArgs(ledger->lock, word_release, NULL);
    Py_XDECREF(given);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

/* Nobody is told of starts and ends, and nobody has a callback or a token of this ledger. */
static bool is_quiet(const Ledger *ledger) {
    PyObject *telling = PyObject_GetAttr(ledger->dispatcher, word_telling);
    bool quiet = telling == Py_False;
    Py_XDECREF(telling);
    if (!telling)
        PyErr_Clear();
    return quiet;
}

static bool may_start(const Ledger *ledger) {
    return !ledger->special && !ledger->closed && ledger->starts_at && ledger->specs && ledger->specs != Py_None;
}

/* ---- a start ---------------------------------------------------------------------------------- */

/* Its name and its token. 1, 0 if the long way is to find out why not, or -1. Called with the lock held. */
static int enter(Ledger *ledger, Entry *entry, PyObject *token) {
    if (!may_start(ledger))
        return 0;
    if (PyDict_GetItemWithError(ledger->active, entry->task_id) || PyErr_Occurred())
        return PyErr_Occurred() ? -1 : 0;
    entry->starter = PyThread_get_thread_ident();
    put(&entry->token, token);
    if (PyDict_SetItem(ledger->by_token, token, (PyObject *)entry) < 0)
        return -1;
    if (PyDict_SetItem(ledger->active, entry->task_id, (PyObject *)entry) < 0)
        return -1;
    return 1;
}

/* Who starts it sees to what has come up meanwhile. 0, or -1. */
static int see_to(Ledger *ledger, Entry *entry) {
    if (entry->flags) {
        PyObject *began = PyFloat_FromDouble(0.0);
        PyObject *done =
            began ? PyObject_CallMethodObjArgs((PyObject *)ledger, word_announce, entry, began, NULL) : NULL;
        Py_XDECREF(began);
        if (!done)
            return -1;
        Py_DECREF(done);
    }
    entry->starter = 0;
    if (++ledger->starts % STARTS_PER_DRAIN)
        return 0;
    PyObject *drained = PyObject_CallMethodObjArgs((PyObject *)ledger, word_drain, NULL);
    Py_XDECREF(drained);
    return drained ? 0 : -1;
}

/* 1, 0: not in this way, and nothing has happened, -1: it may have been started. */
static int start(Ledger *ledger, Entry *entry, PyObject *args) {
    PyObject *block = direct_joined(args);
    PyObject *token = block ? PyIter_Next(next_token) : NULL;
    PyObject *specs = NULL, *env_keeper = NULL;
    int r = -1;

    if (!token)
        goto out;
    uint64_t number = PyLong_AsUnsignedLongLong(token);
    if (!entry->owner) {
        allocfunc allocate = PyType_GetSlot((PyTypeObject *)cell_type, Py_tp_alloc);
        Cell *cell = (Cell *)allocate((PyTypeObject *)cell_type, 0);
        if (!cell)
            goto out;
        entry->owner = (PyObject *)cell;
        entry->at = &cell->owner;
    }
    if (direct_refresh(&packed) < 0)
        goto out;
    r = take_lock(ledger);
    if (r <= 0)
        goto out;
    r = enter(ledger, entry, token);
    /* These must not go while the start is under way. */
    specs = Py_NewRef(ledger->specs);
    env_keeper = Py_NewRef(packed.owner);
    env_owner env = {packed.env};
    void *starts = (void *)(uintptr_t)ledger->starts_at;
    give_lock(ledger);
    if (r <= 0)
        goto out;

    const char *text = PyBytes_AsString(block);
    size_t bytes = (size_t)PyBytes_Size(block);
    proc_owner *at = entry->at;
    put(&entry->what, args);
    Py_BEGIN_ALLOW_THREADS
    r = library.start(starts, at, text, bytes, &env, number);
    Py_END_ALLOW_THREADS
    if (r < 0) {
        PyObject *result = PyLong_FromLong(r);
        PyObject *failed = result ? PyObject_CallFunctionObjArgs(fail, entry, result, NULL) : NULL;
        Py_XDECREF(result);
        Py_XDECREF(failed); /* it raises */
        r = -1;
    } else {
        r = see_to(ledger, entry) < 0 ? -1 : 1;
    }
out:
    Py_XDECREF(env_keeper);
    Py_XDECREF(specs);
    Py_XDECREF(token);
    Py_XDECREF(block);
    return r;
}

/* Whether nothing runs but our own code when such a name is looked up. */
static bool is_simple_name(PyObject *name) {
    return PyUnicode_CheckExact(name) || PyLong_CheckExact(name);
}

static Entry *entry_of(PyObject *object) {
    if (PyObject_TypeCheck(object, (PyTypeObject *)entry_type))
        return (Entry *)object;
    PyErr_SetString(PyExc_TypeError, "not an Entry");
    return NULL;
}

/* Its ledger, or NULL where there is none. */
static Ledger *ledger_of(const Entry *entry) {
    bool is_one = entry->roster && PyObject_TypeCheck(entry->roster, (PyTypeObject *)ledger_type);
    return is_one ? (Ledger *)entry->roster : NULL;
}

/* True: it runs. False: it is not plain, or not now, and nothing has happened. */
static PyObject *start_entry(PyObject *module, PyObject *object) {
    (void)module;
    Entry *entry = entry_of(object);
    Ledger *ledger = entry ? ledger_of(entry) : NULL;
    if (!ledger)
        return entry ? Py_NewRef(Py_False) : NULL;
    if (!may_start(ledger) || !is_simple_name(entry->task_id) || !direct_are_plain(entry->what) || !is_quiet(ledger) ||
        PyDict_GetItemWithError(levels, level) != Py_False)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    PyObject *args = PyList_CheckExact(entry->what) ? PyList_AsTuple(entry->what) : Py_NewRef(entry->what);
    if (!args)
        return NULL;
    Py_INCREF((PyObject *)ledger);
    int r = start(ledger, entry, args);
    Py_DECREF((PyObject *)ledger);
    Py_DECREF(args);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

/* ---- its end ------------------------------------------------------------------------------------ */

static PyObject *status_of(int64_t stand, PyObject *source) {
    PyObject *status = PyType_GenericAlloc((PyTypeObject *)status_type, 0);
    int64_t code = stand >> STAND_CODE;
    PyObject *number = code ? PyLong_FromLongLong(code - 1) : Py_NewRef(Py_None);
    bool made = status && number && PyObject_GenericSetAttr(status, word_source, source) == 0 &&
                PyObject_GenericSetAttr(status, word_code, number) == 0;
    Py_XDECREF(number);
    if (!made)
        Py_CLEAR(status);
    return status;
}

/* Among those that have ended. 0, or -1. */
static int remember(PyObject *finished, Entry *entry) {
    PyObject *by_task = PyObject_GetAttr(finished, word_by_task);
    PyObject *in_order = PyObject_GetAttr(finished, word_in_order);
    PyObject *at_most = PyObject_GetAttr(finished, word_count_at_most);
    PyObject *done = NULL;

    if (by_task && in_order && at_most && PyObject_SetItem(by_task, entry->task_id, (PyObject *)entry) == 0)
        done = PyObject_CallMethodObjArgs(in_order, word_append, entry, NULL);
    if (done && PyObject_Size(in_order) > PyLong_AsSsize_t(at_most)) {
        Py_DECREF(done);
        done = PyObject_CallMethodObjArgs(finished, word_forget_oldest, NULL);
    }
    Py_XDECREF(done);
    Py_XDECREF(at_most);
    Py_XDECREF(in_order);
    Py_XDECREF(by_task);
    return done ? 0 : -1;
}

/* Enter an end of which nothing but the status is to be seen to. 0, or -1. Called with the lock held. */
static int enter_end(Ledger *ledger, Entry *entry, PyObject *status) {
    entry->flags |= HEARD;
    if (entry->status == Py_None)
        put(&entry->status, status);
    if (PyDict_GetItemWithError(ledger->by_token, entry->token)) {
        if (PyDict_GetItemWithError(ledger->active, entry->task_id) == (PyObject *)entry &&
            PyDict_DelItem(ledger->active, entry->task_id) < 0)
            return -1;
        if (PyErr_Occurred() || remember(ledger->finished, entry) < 0)
            return -1;
        /* At last, so that this is done again if it could not be done whole. */
        return PyDict_DelItem(ledger->by_token, entry->token);
    }
    if (PyErr_Occurred())
        return -1;
    PyObject *unheard = PyObject_GetAttr(ledger->finished, word_unheard);
    int r = unheard ? PyDict_Contains(unheard, entry->token) : -1;
    if (r > 0)
        r = PyDict_DelItem(unheard, entry->token);
    Py_XDECREF(unheard);
    return r < 0 ? -1 : 0;
}

/* Whether it may have left output that is kept. */
static bool captures(const Entry *entry) {
    if (PyTuple_CheckExact(entry->what))
        return false;
    PyObject *it_does = PyObject_GetAttr(entry->what, word_captures);
    bool answer = it_does != Py_False;
    Py_XDECREF(it_does);
    PyErr_Clear();
    return answer;
}

static bool is_simple_end(const Ledger *ledger, const Entry *entry, int64_t stand) {
    const int64_t escalated = (int64_t)FP_EXIT_ESCALATED << STAND_FLAGS;
    return (stand & (STAND_STATE | escalated)) == FP_STATE_DONE && entry->callbacks == Py_None &&
           entry->status == Py_None && PyDict_Size(ledger->cancels) == 0 && is_quiet(ledger) && !captures(entry);
}

/* 1: it has ended, and that is entered; 0: the long way is to see, -1. */
static int hear(Ledger *ledger, Entry *entry) {
    void *starts = (void *)(uintptr_t)ledger->starts_at;
    proc_owner *at = entry->at;
    int64_t stand;

    Py_BEGIN_ALLOW_THREADS
    stand = library.wait(starts, at, -1);
    Py_END_ALLOW_THREADS
    if (stand <= 0 || !is_simple_end(ledger, entry, stand))
        return 0;
    PyObject *status = status_of(stand, entry->owner);
    if (!status)
        return -1;
    int r = take_lock(ledger);
    if (r > 0) {
        r = enter_end(ledger, entry, status) < 0 ? -1 : 1;
        give_lock(ledger);
    }
    Py_DECREF(status);
    if (r <= 0)
        return r;
    /* The news of it are of no use any more. */
    library.hear(starts, at);
    if (!ledger->forgotten)
        return 1;
    PyObject *relaxed = PyObject_CallMethodObjArgs((PyObject *)ledger, word_relax, NULL);
    Py_XDECREF(relaxed);
    return relaxed ? 1 : -1;
}

/* True: it has ended, and `_status` says how. False: not plain, or interrupted; nothing is lost. */
static PyObject *hear_entry(PyObject *module, PyObject *object) {
    (void)module;
    Entry *entry = entry_of(object);
    Ledger *ledger = entry ? ledger_of(entry) : NULL;
    if (!ledger || entry->status != Py_None || !ledger->starts_at || !place_of(entry) || !entry->at->proc)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    Py_INCREF((PyObject *)ledger);
    Py_INCREF((PyObject *)entry);
    int r = hear(ledger, entry);
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)ledger);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

/* ---- setting up ------------------------------------------------------------------------------------ */

/* What is given from another interpreter would end with it; nothing is started there, see roster.py. */
static bool is_main_interpreter(void) {
    return PyInterpreterState_GetID(PyInterpreterState_Get()) == 0;
}

static PyObject *set_up_ledger(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *functions, *owner_bytes, *given[7];
    if (!PyArg_ParseTuple(args, "O!OOOOOOOO", &PyTuple_Type, &functions, &owner_bytes, &given[0], &given[1], &given[2],
                          &given[3], &given[4], &given[5], &given[6]))
        return NULL;
    void *address[4];
    for (int i = 0; i < 4 && !PyErr_Occurred(); i++)
        address[i] = PyLong_AsVoidPtr(PyTuple_GetItem(functions, i));
    if (!PyErr_Occurred() && PyLong_AsSize_t(owner_bytes) != sizeof(proc_owner))
        PyErr_SetString(PyExc_ImportError, "glue.h and ledger.c disagree about the layout of an owner");
    if (PyErr_Occurred())
        return NULL;
    if (!is_main_interpreter())
        Py_RETURN_NONE;
    memcpy(&library.start, &address[0], sizeof address[0]);
    memcpy(&library.wait, &address[1], sizeof address[1]);
    memcpy(&library.hear, &address[2], sizeof address[2]);
    memcpy(&library.free, &address[3], sizeof address[3]);
    make_owner = Py_NewRef(given[0]);
    owner_kind = Py_NewRef(given[1]);
    wrap_cell = Py_NewRef(given[2]);
    address_of = Py_NewRef(given[3]);
    pointer_to = Py_NewRef(given[4]);
    packed.repack = Py_NewRef(given[5]);
    status_type = Py_NewRef(given[6]);
    Py_RETURN_NONE;
}

static PyObject *keep_for_starts(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *seen, *owner, *env, *none;
    if (!PyArg_ParseTuple(args, "OOOO", &seen, &owner, &env, &none))
        return NULL;
    return direct_keep(&packed, seen, owner, env, none) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *set_engine(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *given[4];
    if (!PyArg_ParseTuple(args, "OO!OO", &given[0], &PyDict_Type, &given[1], &given[2], &given[3]))
        return NULL;
    if (!is_main_interpreter())
        Py_RETURN_NONE;
    next_token = Py_NewRef(given[0]);
    levels = Py_NewRef(given[1]);
    level = Py_NewRef(given[2]);
    fail = Py_NewRef(given[3]);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"set_up_ledger", set_up_ledger, METH_VARARGS, NULL},
    {"keep_for_starts", keep_for_starts, METH_VARARGS, NULL},
    {"set_engine", set_engine, METH_VARARGS, NULL},
    {"start_entry", start_entry, METH_O, NULL},
    {"hear_entry", hear_entry, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static const struct {
    PyObject **word;
    const char *text;
} words[] = {
    {&word_acquire, "acquire"},
    {&word_release, "release"},
    {&word_telling, "telling"},
    {&word_drain, "drain"},
    {&word_announce, "announce"},
    {&word_relax, "relax"},
    {&word_source, "_source"},
    {&word_code, "code"},
    {&word_by_task, "by_task"},
    {&word_in_order, "in_order"},
    {&word_append, "append"},
    {&word_unheard, "unheard"},
    {&word_count_at_most, "_count_at_most"},
    {&word_forget_oldest, "forget_oldest"},
    {&word_captures, "captures"},
};

int ledger_add_to(PyObject *module) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        *words[i].word = PyUnicode_InternFromString(words[i].text);
        if (!*words[i].word)
            return -1;
    }
    cell_type = PyType_FromSpec(&cell_spec);
    entry_type = PyType_FromSpec(&entry_spec);
    ledger_type = PyType_FromSpec(&ledger_spec);
    if (!cell_type || !entry_type || !ledger_type || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Entry", entry_type) < 0 ||
                   PyModule_AddObjectRef(module, "Ledger", ledger_type) < 0
               ? -1
               : 0;
}
