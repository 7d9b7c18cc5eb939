/*
 * direct.h: what the files of the extension `_direct` promise one another.
 */
#ifndef FASTPROC_DIRECT_H
#define FASTPROC_DIRECT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "fastproc.h"

/* os.environ as it was packed last. */
typedef struct {
    PyObject *seen;   /* its dict of bytes */
    PyObject *owner;  /* keeps the two below */
    PyObject *repack; /* packs it again, and has it kept here */
    fp_env *env;
    const char *search_path;
} environment;

/* A list or tuple of one or more str, the first of them not empty, none with a NUL. */
bool direct_are_plain(PyObject *args);
/* The strings of what is plain, one behind the other, each with its NUL. */
PyObject *direct_joined(PyObject *args);
/* Have os.environ packed as it is now. 0, or -1 with an exception. */
int direct_refresh(environment *packed);
int direct_keep(environment *packed, PyObject *seen, PyObject *owner, PyObject *env, PyObject *search_path);

/* ledger.c */
int ledger_add_to(PyObject *module);

#endif
