/*
 * ledger.c: the processes of one manager as an object in C, and the two things
 * that are done with nearly every one: a start of which nothing is said but its
 * arguments, and a wait for its end. Many at a time: many.c.
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
#include "ledger.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* A start in so many reads the news as well: mailboxes shall not grow. */
enum { STARTS_PER_DRAIN = 32 };

ledger_library library_of_ledger;

/* From Python: environment.py, status.py; and, once there is an engine, roster.py, starting.py. */
static PyObject *status_type;
static PyObject *next_token, *levels, *level, *fail;
static environment packed;

static PyObject *word_acquire, *word_release, *word_telling, *word_drain, *word_announce, *word_relax, *word_source,
    *word_code, *word_by_task, *word_in_order, *word_append, *word_popleft, *word_unheard, *word_sizes,
    *word_count_at_most, *word_forget_oldest, *word_keep_weakly, *word_captures;

static PyObject *ledger_type;

/* ---- ledgers ----------------------------------------------------------------------------- */

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
    Py_VISIT(self->acquire);
    Py_VISIT(self->release);
    Py_VISIT(self->active);
    Py_VISIT(self->by_token);
    Py_VISIT(self->finished);
    Py_VISIT(self->by_task);
    Py_VISIT(self->in_order);
    Py_VISIT(self->unheard);
    Py_VISIT(self->sizes);
    Py_VISIT(self->dispatcher);
    Py_VISIT(self->cancels);
    Py_VISIT(self->specs);
    return 0;
}

static void clear_finished(Ledger *self) {
    Py_CLEAR(self->finished);
    Py_CLEAR(self->by_task);
    Py_CLEAR(self->in_order);
    Py_CLEAR(self->unheard);
    Py_CLEAR(self->sizes);
}

static int ledger_clear(Ledger *self) {
    Py_CLEAR(self->lock);
    Py_CLEAR(self->acquire);
    Py_CLEAR(self->release);
    Py_CLEAR(self->active);
    Py_CLEAR(self->by_token);
    clear_finished(self);
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

static PyObject *had(PyObject *value, const char *name) {
    if (!value)
        PyErr_SetString(PyExc_AttributeError, name);
    return Py_XNewRef(value);
}

static PyObject *ledger_get_lock(Ledger *self, void *closure) {
    (void)closure;
    return had(self->lock, "lock");
}

static int ledger_set_lock(Ledger *self, PyObject *lock, void *closure) {
    (void)closure;
    PyObject *acquire = lock ? PyObject_GetAttr(lock, word_acquire) : NULL;
    PyObject *release = acquire ? PyObject_GetAttr(lock, word_release) : NULL;
    if (release) {
        entry_put(&self->lock, lock);
        entry_put(&self->acquire, acquire);
        entry_put(&self->release, release);
    } else if (!lock) {
        PyErr_SetString(PyExc_AttributeError, "lock");
    }
    Py_XDECREF(acquire);
    Py_XDECREF(release);
    return release ? 0 : -1;
}

static PyObject *ledger_get_finished(Ledger *self, void *closure) {
    (void)closure;
    return had(self->finished, "finished");
}

static int take_finished(Ledger *self, PyObject *finished) {
    PyObject *at_most = PyObject_GetAttr(finished, word_count_at_most);
    self->most_finished = at_most ? PyLong_AsSsize_t(at_most) : -1;
    Py_XDECREF(at_most);
    self->by_task = PyObject_GetAttr(finished, word_by_task);
    self->in_order = PyObject_GetAttr(finished, word_in_order);
    self->unheard = PyObject_GetAttr(finished, word_unheard);
    self->sizes = PyObject_GetAttr(finished, word_sizes);
    if (PyErr_Occurred())
        return -1;
    self->finished = Py_NewRef(finished);
    return 0;
}

/* Its parts are looked up once: nobody puts others in their places. */
static int ledger_set_finished(Ledger *self, PyObject *finished, void *closure) {
    (void)closure;
    clear_finished(self);
    if (finished && take_finished(self, finished) == 0)
        return 0;
    clear_finished(self);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "finished");
    return -1;
}

static PyGetSetDef ledger_getset[] = {
    {"lock", (getter)ledger_get_lock, (setter)ledger_set_lock, NULL, NULL},
    {"finished", (getter)ledger_get_finished, (setter)ledger_set_finished, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef ledger_members[] = {
    {"active", T_OBJECT_EX, offsetof(Ledger, active), 0, NULL},
    {"by_token", T_OBJECT_EX, offsetof(Ledger, by_token), 0, NULL},
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
    {Py_tp_new, ledger_new},           {Py_tp_init, ledger_init},
    {Py_tp_traverse, ledger_traverse}, {Py_tp_clear, ledger_clear},
    {Py_tp_dealloc, ledger_dealloc},   {Py_tp_members, ledger_members},
    {Py_tp_getset, ledger_getset},     {0, NULL},
};
static PyType_Spec ledger_spec = {
    .name = "fastproc._native._direct.Ledger",
    .basicsize = sizeof(Ledger),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = ledger_slots,
};

/* 1: it is ours now, 0: somebody has it, -1. */
static int take_lock(const Ledger *ledger) {
    PyObject *taken = PyObject_CallFunctionObjArgs(ledger->acquire, Py_False, NULL);
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
    PyObject *given = PyObject_CallNoArgs(ledger->release);
    Py_XDECREF(given);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

bool ledger_is_quiet(const Ledger *ledger) {
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

PyObject *ledger_environment(env_owner *ret_env) {
    if (direct_refresh(&packed) < 0)
        return NULL;
    ret_env->env = packed.env;
    return Py_NewRef(packed.owner);
}

/* Its name and its token. 1, 0 if the long way is to find out why not, or -1. Called with the lock held. */
static int enter(Ledger *ledger, Entry *entry, PyObject *token) {
    if (!may_start(ledger))
        return 0;
    if (PyDict_GetItemWithError(ledger->active, entry->task_id) || PyErr_Occurred())
        return PyErr_Occurred() ? -1 : 0;
    entry->starter = PyThread_get_thread_ident();
    entry_put(&entry->token, token);
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
    if (!entry_place_made(entry) || direct_refresh(&packed) < 0)
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
    entry_put(&entry->what, args);
    Py_BEGIN_ALLOW_THREADS
    r = library_of_ledger.start(starts, at, text, bytes, &env, number);
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

bool ledger_is_simple_name(PyObject *name) {
    return PyUnicode_CheckExact(name) || PyLong_CheckExact(name);
}

Ledger *ledger_from(PyObject *object) {
    if (PyObject_TypeCheck(object, (PyTypeObject *)ledger_type))
        return (Ledger *)object;
    PyErr_SetString(PyExc_TypeError, "not a Ledger");
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
    if (!may_start(ledger) || !ledger_is_simple_name(entry->task_id) || !direct_are_plain(entry->what) ||
        !ledger_is_quiet(ledger) || PyDict_GetItemWithError(levels, level) != Py_False)
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

PyObject *ledger_status(int64_t stand, PyObject *source) {
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

/* As Finished.add() has it. 0, or -1. */
static int remember(Ledger *ledger, Entry *entry) {
    PyObject *self = (PyObject *)entry;

    if (ledger->most_finished == 0)
        return 0;
    if (PyDict_SetItem(ledger->by_task, entry->task_id, self) < 0)
        return -1;
    PyObject *appended = PyObject_CallMethodObjArgs(ledger->in_order, word_append, self, NULL);
    Py_XDECREF(appended);
    if (!appended)
        return -1;
    return entry->flags & HEARD ? 0 : PyDict_SetItem(ledger->unheard, entry->token, self);
}

/* The entry of that key is no more. 0, or -1. */
static int drop_key(PyObject *dict, PyObject *key) {
    if (PyDict_GetItemWithError(dict, key))
        return PyDict_DelItem(dict, key);
    return PyErr_Occurred() ? -1 : 0;
}

/* 0, or -1. */
static int forget_one(Ledger *ledger) {
    PyObject *oldest = PyObject_CallMethodObjArgs(ledger->in_order, word_popleft, NULL);
    Entry *entry = oldest ? entry_of(oldest) : NULL;
    int r = entry ? PyDict_Contains(ledger->unheard, entry->token) : -1;

    if (r > 0) {
        PyObject *kept = PyObject_CallMethodObjArgs(ledger->finished, word_keep_weakly, oldest, NULL);
        r = kept ? PyDict_DelItem(ledger->unheard, entry->token) : -1;
        Py_XDECREF(kept);
    }
    /* The id may be in use again by a later one that has ended too. */
    if (r == 0 && PyDict_GetItemWithError(ledger->by_task, entry->task_id) == oldest)
        r = PyDict_DelItem(ledger->by_task, entry->task_id);
    Py_XDECREF(oldest);
    return PyErr_Occurred() ? -1 : r;
}

int ledger_forget_oldest(Ledger *ledger) {
    /* Who keeps output counts by its bytes as well. */
    if (PyDict_Size(ledger->sizes) > 0) {
        PyObject *done = PyObject_CallMethodObjArgs(ledger->finished, word_forget_oldest, NULL);
        Py_XDECREF(done);
        return done ? 0 : -1;
    }
    int r = 0;
    while (r == 0 && PyObject_Size(ledger->in_order) > ledger->most_finished)
        r = forget_one(ledger);
    return r;
}

int ledger_retire(Ledger *ledger, Entry *entry) {
    if (PyDict_GetItemWithError(ledger->active, entry->task_id) == (PyObject *)entry &&
        PyDict_DelItem(ledger->active, entry->task_id) < 0)
        return -1;
    if (PyErr_Occurred())
        return -1;
    /* Names compare, and garbage ends, in code of others: that may have entered this very end meanwhile. */
    int is_left = PyDict_Contains(ledger->by_token, entry->token);
    if (is_left <= 0 || remember(ledger, entry) < 0)
        return is_left <= 0 ? is_left : -1;
    if (entry->flags & UNCOUNTED) {
        entry->flags = (entry->flags & ~UNCOUNTED) | COUNTED;
        library_of_ledger.count_starts((void *)(uintptr_t)ledger->starts_at, 1);
    }
    /* At last, so that this is done again if it could not be done whole. */
    return drop_key(ledger->by_token, entry->token);
}

/* Enter an end of which nothing but the status is to be seen to. 0, or -1. Called with the lock held. */
static int enter_end(Ledger *ledger, Entry *entry, PyObject *status) {
    entry->flags |= HEARD;
    if (entry->status == Py_None)
        entry_put(&entry->status, status);
    if (!PyDict_GetItemWithError(ledger->by_token, entry->token))
        return PyErr_Occurred() ? -1 : drop_key(ledger->unheard, entry->token);
    return ledger_retire(ledger, entry) < 0 ? -1 : ledger_forget_oldest(ledger);
}

int ledger_relax(Ledger *ledger) {
    if (!ledger->forgotten)
        return 0;
    PyObject *relaxed = PyObject_CallMethodObjArgs((PyObject *)ledger, word_relax, NULL);
    Py_XDECREF(relaxed);
    return relaxed ? 0 : -1;
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
    return (stand & (STAND_STATE | STAND_ESCALATED)) == FP_STATE_DONE && entry->callbacks == Py_None &&
           entry->status == Py_None && PyDict_Size(ledger->cancels) == 0 && ledger_is_quiet(ledger) && !captures(entry);
}

/* 1: it has ended, and that is entered; 0: the long way is to see, also if it has not ended in time, -1. */
static int hear(Ledger *ledger, Entry *entry, int64_t timeout_ns) {
    void *starts = (void *)(uintptr_t)ledger->starts_at;
    proc_owner *at = entry->at;
    int64_t stand;

    Py_BEGIN_ALLOW_THREADS
    stand = library_of_ledger.wait(starts, at, timeout_ns);
    Py_END_ALLOW_THREADS
    if (stand <= 0 || !is_simple_end(ledger, entry, stand))
        return 0;
    PyObject *status = ledger_status(stand, entry->owner);
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
    library_of_ledger.hear(starts, at);
    return ledger_relax(ledger) < 0 ? -1 : 1;
}

/* Seconds, or None for ever, as wait() of the library has it. False: it is for the long way to say what is wrong. */
static bool read_timeout(PyObject *seconds, int64_t *ret_ns) {
    enum { LONGEST = 1 << 30 };

    *ret_ns = -1;
    if (seconds == Py_None)
        return true;
    if (!PyFloat_CheckExact(seconds) && !PyLong_CheckExact(seconds))
        return false;
    double length = PyFloat_AsDouble(seconds);
    if (PyErr_Occurred())
        PyErr_Clear();
    else if (length >= 0 && length < LONGEST)
        *ret_ns = (int64_t)(length * 1e9);
    return *ret_ns >= 0;
}

/*
 * True: it has ended, and `_status` says how. False: not plain, or interrupted, or not in time; nothing is lost, and
 * whoever takes the long way waits for the rest of the time.
 */
static PyObject *hear_entry(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    if (n != 2)
        return PyErr_Format(PyExc_TypeError, "hear_entry(entry, timeout)");
    Entry *entry = entry_of(args[0]);
    Ledger *ledger = entry ? ledger_of(entry) : NULL;
    int64_t timeout_ns;
    if (!ledger || entry->status != Py_None || !ledger->starts_at || !entry_place(entry) || !entry->at->proc ||
        !read_timeout(args[1], &timeout_ns))
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    Py_INCREF((PyObject *)ledger);
    Py_INCREF((PyObject *)entry);
    int r = hear(ledger, entry, timeout_ns);
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
    PyObject *functions, *repack, *kind_of_status;
    Py_ssize_t owner_bytes, brief_bytes;
    entry_givens givens;
    if (!PyArg_ParseTuple(args, "O!(nn)OOOOOOO", &PyTuple_Type, &functions, &owner_bytes, &brief_bytes,
                          &givens.make_owner, &givens.owner_kind, &givens.wrap_cell, &givens.address_of,
                          &givens.pointer_to, &repack, &kind_of_status))
        return NULL;
    void *address[LEDGER_FUNCTIONS];
    for (int i = 0; i < LEDGER_FUNCTIONS && !PyErr_Occurred(); i++)
        address[i] = PyLong_AsVoidPtr(PyTuple_GetItem(functions, i));
    if (!PyErr_Occurred() && (owner_bytes != sizeof(proc_owner) || brief_bytes != sizeof(brief)))
        PyErr_SetString(PyExc_ImportError, "glue.h and ledger.h disagree about the layout of an owner or a brief");
    if (PyErr_Occurred())
        return NULL;
    if (!is_main_interpreter())
        Py_RETURN_NONE;
    memcpy(&library_of_ledger, address, sizeof address);
    entry_set_up(&givens);
    entry_put(&packed.repack, repack);
    entry_put(&status_type, kind_of_status);
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
    {"hear_entry", (PyCFunction)(void (*)(void))hear_entry, METH_FASTCALL, NULL},
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
    {&word_popleft, "popleft"},
    {&word_unheard, "unheard"},
    {&word_sizes, "_sizes"},
    {&word_count_at_most, "_count_at_most"},
    {&word_forget_oldest, "forget_oldest"},
    {&word_keep_weakly, "keep_weakly"},
    {&word_captures, "captures"},
};

int ledger_add_to(PyObject *module) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        *words[i].word = PyUnicode_InternFromString(words[i].text);
        if (!*words[i].word)
            return -1;
    }
    ledger_type = PyType_FromSpec(&ledger_spec);
    if (!ledger_type || entry_add_to(module) < 0 || many_add_to(module) < 0 ||
        PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Ledger", ledger_type);
}
