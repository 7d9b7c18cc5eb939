/*
 * many.c: what ledger.c does with one process, done with many in one call:
 * made, queued, waited for until they have been started, entered when they have
 * ended.
 *
 * Beside a crew that is busy each microsecond of Python is taken from it where
 * there are no more CPUs than supervisors. Here too, whatever is not plain or
 * not quiet is left to the long way.
 */
#include "ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static PyObject *word_append;

/* ---- making ------------------------------------------------------------------------ */

/* The arguments, each ended by a NUL, if they are plain; else None. */
static PyObject *plain_block(PyObject *module, PyObject *args) {
    (void)module;
    return direct_are_plain(args) ? direct_joined(args) : Py_NewRef(Py_None);
}

/* (the process, its arguments as a block) if nothing else is said of it; else None. */
static PyObject *plain_entry(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    if (n != 4)
        return PyErr_Format(PyExc_TypeError, "plain_entry(type, roster, task_id, args)");
    if (!direct_are_plain(args[3]))
        Py_RETURN_NONE;
    PyObject *what = PyList_CheckExact(args[3]) ? PyList_AsTuple(args[3]) : Py_NewRef(args[3]);
    PyObject *block = what ? direct_joined(what) : NULL;
    PyObject *made = block ? PyObject_CallFunctionObjArgs(args[0], args[1], args[2], what, NULL) : NULL;
    PyObject *both = made ? PyTuple_Pack(2, made, block) : NULL;
    Py_XDECREF(made);
    Py_XDECREF(block);
    Py_XDECREF(what);
    return both;
}

/* ---- queueing ------------------------------------------------------------------------ */

/* What the library is told of many at once. */
typedef struct {
    PyObject *kept; /* the entries, as a tuple */
    proc_owner **owners;
    uint64_t *tokens;
    size_t *args_bytes;
    char *args;
    size_t n;
} order;

static void order_free(order *order) {
    free(order->args);
    free(order->args_bytes);
    free(order->tokens);
    free(order->owners);
    Py_CLEAR(order->kept);
}

/* Who is asked for, and where their owners are; `makes` those that have none. 0, or -1. */
static int order_open(order *order, PyObject *entries, bool makes) {
    order->kept = PySequence_Tuple(entries);
    if (!order->kept)
        return -1;
    order->n = (size_t)PyTuple_Size(order->kept);
    order->owners = calloc(order->n + 1, sizeof *order->owners);
    if (!order->owners) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < order->n; i++) {
        Entry *entry = entry_of(PyTuple_GetItem(order->kept, (Py_ssize_t)i));
        if (!entry)
            return -1;
        order->owners[i] = makes ? entry_place_made(entry) : entry_place(entry);
        if (!order->owners[i]) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "an Entry without an owner has not been queued");
            return -1;
        }
    }
    return 0;
}

/* Their tokens, and their arguments one behind the other. 0, or -1. */
static int order_fill(order *order, PyObject *blocks) {
    size_t total = 0;

    if (!PyList_CheckExact(blocks) || (size_t)PyList_Size(blocks) != order->n) {
        PyErr_SetString(PyExc_TypeError, "blocks must be a list, as long as the entries");
        return -1;
    }
    order->tokens = calloc(order->n + 1, sizeof *order->tokens);
    order->args_bytes = calloc(order->n + 1, sizeof *order->args_bytes);
    for (size_t i = 0; order->args_bytes && i < order->n; i++) {
        Py_ssize_t bytes = PyBytes_Size(PyList_GetItem(blocks, (Py_ssize_t)i));
        if (bytes < 0)
            return -1;
        order->args_bytes[i] = (size_t)bytes;
        total += order->args_bytes[i];
    }
    order->args = malloc(total + 1);
    if (!order->tokens || !order->args_bytes || !order->args) {
        PyErr_NoMemory();
        return -1;
    }
    char *end = order->args;
    for (size_t i = 0; i < order->n; i++) {
        const Entry *entry = (Entry *)PyTuple_GetItem(order->kept, (Py_ssize_t)i);
        order->tokens[i] = PyLong_AsUnsignedLongLong(entry->token);
        memcpy(end, PyBytes_AsString(PyList_GetItem(blocks, (Py_ssize_t)i)), order->args_bytes[i]);
        end += order->args_bytes[i];
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* 0, or -errno: then none has been queued. */
static PyObject *queue_entries(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    order order = {0};
    env_owner env;
    PyObject *result = NULL, *env_keeper = NULL;
    if (n != 4)
        return PyErr_Format(PyExc_TypeError, "queue_entries(starts, entries, blocks, max_running)");
    void *starts = PyLong_AsVoidPtr(args[0]);
    unsigned long max_running = PyLong_AsUnsignedLong(args[3]);
    if (!PyErr_Occurred() && max_running > UINT32_MAX)
        PyErr_SetString(PyExc_OverflowError, "max_running has more than 32 bits");
    if (!PyErr_Occurred() && order_open(&order, args[1], true) == 0 && order_fill(&order, args[2]) == 0)
        env_keeper = ledger_environment(&env);
    if (env_keeper) {
        int r;
        Py_BEGIN_ALLOW_THREADS
        r = library_of_ledger.start_all(starts, order.owners, order.args, order.args_bytes, order.tokens, &env, order.n,
                                        (uint32_t)max_running);
        Py_END_ALLOW_THREADS
        result = PyLong_FromLong(r);
    }
    Py_XDECREF(env_keeper);
    order_free(&order);
    return result;
}

/* Block until each has been started or has failed; how many have failed, or -errno. Runs handlers of signals. */
static PyObject *await_starts(PyObject *module, PyObject *entries) {
    (void)module;
    order order = {0};
    PyObject *result = NULL;
    if (order_open(&order, entries, false) == 0) {
        int r;
        do {
            Py_BEGIN_ALLOW_THREADS
            r = library_of_ledger.wait_all_started(order.owners, order.n);
            Py_END_ALLOW_THREADS
        } while (r == -EINTR && PyErr_CheckSignals() == 0);
        if (!PyErr_Occurred())
            result = PyLong_FromLong(r);
    }
    order_free(&order);
    return result;
}

/* ---- entering ------------------------------------------------------------------------ */

/* The process that a piece of news is about, if there is no more to do than to enter its end; borrowed. */
static Entry *simple_one(const Ledger *ledger, PyObject *token, const brief *news) {
    const uint32_t ordinary = FP_NEWS_STARTED | FP_NEWS_EXITED | FP_NEWS_DONE;

    if ((news->stand & (STAND_STATE | STAND_ESCALATED)) != FP_STATE_DONE || news->what & ~ordinary)
        return NULL;
    Entry *entry = (Entry *)PyDict_GetItemWithError(ledger->by_token, token);
    if (!entry || !PyTuple_CheckExact(entry->what) || entry->callbacks != Py_None ||
        !ledger_is_simple_name(entry->task_id))
        return NULL;
    /* Without, its start has not returned yet, and whoever starts it enters this. */
    const proc_owner *at = entry_place(entry);
    return at && __atomic_load_n(&at->proc, __ATOMIC_ACQUIRE) ? entry : NULL;
}

/* As Feed._settle() has it, unless another reader was faster. How many starts are to be counted, or -1. */
static int give_back(Entry *entry, PyObject *flying, PyObject *ready) {
    if (!PyDict_GetItemWithError(flying, entry->token))
        return PyErr_Occurred() ? -1 : 0;
    int uncounted = !(entry->flags & COUNTED);
    entry->flags |= COUNTED;
    PyObject *appended = PyObject_CallMethodObjArgs(ready, word_append, entry, NULL);
    Py_XDECREF(appended);
    return appended && PyDict_DelItem(flying, entry->token) == 0 ? uncounted : -1;
}

/* As a tuple, see NewsRecord in records.py. */
static PyObject *as_record(const brief *news) {
    return Py_BuildValue("KLIiii", (unsigned long long)news->token, (long long)news->stand, (unsigned)news->what,
                         news->error, news->stage, news->detail);
}

/* 0, or -1. Called with the lock held. */
static int enter_end(Ledger *ledger, Entry *entry, int64_t stand) {
    /* Counted first: who sees the status reads the rest from its owner. */
    library_of_ledger.count_end((void *)(uintptr_t)ledger->starts_at, entry->at);
    if (entry->status == Py_None) {
        PyObject *status = ledger_status(stand, entry->owner);
        if (!status)
            return -1;
        /* To make it may have run a collection of garbage, and that anything. */
        if (entry->status == Py_None)
            entry_put(&entry->status, status);
        Py_DECREF(status);
    }
    return ledger_retire(ledger, entry);
}

/* Enter what is simple; the rest goes to the list. 0, or -1. Called with the lock held. */
static int enter_all(Ledger *ledger, const brief *news, size_t n, PyObject *flying, PyObject *ready, PyObject *rest) {
    uint32_t started = 0;
    int r = 0;

    for (size_t i = 0; i < n && r >= 0; i++) {
        PyObject *token = PyLong_FromUnsignedLongLong(news[i].token);
        Entry *entry = token ? simple_one(ledger, token, &news[i]) : NULL;
        Py_XINCREF((PyObject *)entry);
        if (entry) {
            r = enter_end(ledger, entry, news[i].stand);
            if (r >= 0 && flying)
                r = give_back(entry, flying, ready);
            started += r > 0;
        } else {
            PyObject *item = PyErr_Occurred() ? NULL : as_record(&news[i]);
            r = item ? PyList_Append(rest, item) : -1;
            Py_XDECREF(item);
        }
        Py_XDECREF((PyObject *)entry);
        Py_XDECREF(token);
    }
    if (started)
        library_of_ledger.count_starts((void *)(uintptr_t)ledger->starts_at, started);
    return r < 0 ? r : ledger_forget_oldest(ledger);
}

static bool may_enter(const Ledger *ledger) {
    return ledger->starts_at && ledger->specs && ledger->specs != Py_None && PyDict_Size(ledger->cancels) == 0 &&
           ledger_is_quiet(ledger);
}

/* Enter those pieces of news that are nothing but an end; returns the others, in order. With the lock held. */
static PyObject *enter_ends(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    Ledger *ledger = n == 5 ? ledger_from(args[0]) : NULL;
    const brief *news = ledger ? PyLong_AsVoidPtr(args[1]) : NULL;
    size_t count = news ? PyLong_AsSize_t(args[2]) : 0;
    if (!news || PyErr_Occurred())
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "enter_ends(ledger, news, n, flying, ready)");
    PyObject *flying = args[3] == Py_None ? NULL : args[3];
    PyObject *rest = PyList_New(0);
    int r = rest ? 0 : -1;
    if (rest && may_enter(ledger)) {
        r = enter_all(ledger, news, count, flying, args[4], rest);
        r = r < 0 ? r : ledger_relax(ledger);
    } else {
        for (size_t i = 0; i < count && r == 0; i++) {
            PyObject *item = as_record(&news[i]);
            r = item ? PyList_Append(rest, item) : -1;
            Py_XDECREF(item);
        }
    }
    if (r < 0)
        Py_CLEAR(rest);
    return rest;
}

/* ---- setting up ---------------------------------------------------------------------- */

#define FAST(function) {#function, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    {"plain_block", plain_block, METH_O, NULL},   FAST(plain_entry), FAST(queue_entries),
    {"await_starts", await_starts, METH_O, NULL}, FAST(enter_ends),  {NULL, NULL, 0, NULL},
};

int many_add_to(PyObject *module) {
    word_append = PyUnicode_InternFromString("append");
    return word_append ? PyModule_AddFunctions(module, functions) : -1;
}
