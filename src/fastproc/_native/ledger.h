/*
 * ledger.h: what ledger.c, entry.c and many.c promise one another.
 */
#ifndef FASTPROC_LEDGER_H
#define FASTPROC_LEDGER_H

#include "direct.h"

/* As in glue.h. */
typedef struct {
    fp_proc *proc;
    int64_t stand;
    fp_failure failure;
} proc_owner;
typedef struct {
    fp_env *env;
} env_owner;
typedef struct {
    uint64_t token;
    int64_t stand;
    uint32_t what;
    int32_t error;
    int32_t stage;
    int32_t detail;
} brief;

/* What has been told and counted, see child.py. */
enum { COUNTED = 16, HEARD = 32, UNCOUNTED = 256 };
/* Of a stand, see glue.h. */
enum { STAND_STATE = 7, STAND_FLAGS = 3, STAND_CODE = 24 };
#define STAND_ESCALATED ((int64_t)FP_EXIT_ESCALATED << STAND_FLAGS)

/* Functions of glue.h and of the library, as cffi has loaded them. */
typedef struct {
    int (*start)(void *starts, proc_owner *owner, const char *args, size_t args_bytes, env_owner *env, uint64_t token);
    int64_t (*wait)(void *starts, proc_owner *owner, int64_t timeout_ns);
    void (*hear)(void *starts, proc_owner *owner);
    fp_proc *(*free)(fp_proc *);
    int (*pid)(fp_proc *);
    int (*start_all)(void *starts, proc_owner **owners, const char *args, const size_t *args_bytes,
                     const uint64_t *tokens, env_owner *env, size_t n, uint32_t max_running);
    int (*wait_all_started)(proc_owner **owners, size_t n);
    void (*count_starts)(void *starts, uint32_t n);
    void (*count_end)(void *starts, proc_owner *owner);
} ledger_library;
enum { LEDGER_FUNCTIONS = sizeof(ledger_library) / sizeof(void *) };

extern ledger_library library_of_ledger;

/* ---- entry.c --------------------------------------------------------------------- */

/* An owner that cffi knows nothing of. */
typedef struct {
    PyObject_HEAD proc_owner owner;
} Cell;

/* One process. */
typedef struct {
    PyObject_HEAD PyObject *task_id;
    PyObject *error;
    PyObject *what;
    PyObject *roster;
    PyObject *owner; /* a Cell, or one of cffi's; NULL: not asked for yet */
    PyObject *token;
    PyObject *status;
    PyObject *callbacks;
    proc_owner *at; /* in `owner`; NULL: see entry_place() */
    unsigned long starter;
    int flags;
} Entry;

/* What entry.c is given by owners.py. */
typedef struct {
    PyObject *make_owner, *owner_kind, *wrap_cell, *address_of, *pointer_to;
} entry_givens;

int entry_add_to(PyObject *module);
void entry_set_up(const entry_givens *givens);
/* The object as an Entry, or NULL with an exception. */
Entry *entry_of(PyObject *object);
/* Where its `proc_owner` is. NULL: it has none, or with an exception. */
proc_owner *entry_place(Entry *self);
/* The same; it is given a Cell if it has none. */
proc_owner *entry_place_made(Entry *self);
/* Let `*where` be `value`, and let go of what it was. */
void entry_put(PyObject **where, PyObject *value);

/* ---- ledger.c -------------------------------------------------------------------- */

/* The processes of one manager. */
typedef struct {
    PyObject_HEAD PyObject *lock;
    PyObject *acquire, *release; /* of the lock */
    PyObject *active;            /* by name */
    PyObject *by_token;
    PyObject *finished;                             /* those that have ended, see finished.py; */
    PyObject *by_task, *in_order, *unheard, *sizes; /* its parts */
    Py_ssize_t most_finished;
    PyObject *dispatcher;
    PyObject *cancels;
    PyObject *specs;              /* None: nothing can be started */
    unsigned long long starts_at; /* the `starts *` of the specs; kept when those have gone, for who waits */
    unsigned long starts;
    char closed;
    char special;
    char forgotten;
} Ledger;

/* The object as a Ledger, or NULL with an exception. */
Ledger *ledger_from(PyObject *object);
/* Nobody is told of starts and ends, and nobody has a callback or a token of this ledger. */
bool ledger_is_quiet(const Ledger *ledger);
/* Whether nothing runs but our own code when such a name is looked up. */
bool ledger_is_simple_name(PyObject *name);
/* The status of one that has ended; `source` is its owner. */
PyObject *ledger_status(int64_t stand, PyObject *source);
/* It is one of those that have ended, and its name is free. 0, or -1. Called with the lock held, as is the next. */
int ledger_retire(Ledger *ledger, Entry *entry);
/* If these are too many, forget the oldest. 0, or -1. */
int ledger_forget_oldest(Ledger *ledger);
/* The environment of all plain starts, as it is now. What keeps it, or NULL with an exception. */
PyObject *ledger_environment(env_owner *ret_env);
/* The manager may have been forgotten, with nothing left to look after. 0, or -1. */
int ledger_relax(Ledger *ledger);

/* ---- many.c ---------------------------------------------------------------------- */

int many_add_to(PyObject *module);

#endif
