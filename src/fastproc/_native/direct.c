/*
 * direct.c: between Python and libfastproc where cffi is too far: it takes the
 * objects of a call of run() as they are, and makes the bytes that it returns.
 *
 * Behind a start the caches are cold, and each Python function on the way costs
 * four times what it costs in a warm loop; from here the way is short. And long
 * output is read straight into the bytes object that is returned: one piece of
 * memory, touched once.
 *
 * It has no copy of the library: set_up() is given the addresses of the
 * functions in the one that cffi has loaded. All decisions about arguments that
 * are not plain (a path, another environment, a text mode) are left to Python.
 */
#include "direct.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <time.h>

enum {
    FIRST_ROOM = 64 << 10,
    SECOND_ROOM = 1 << 20,
    DOUBLED_UP_TO = 16 << 20, /* then by a quarter: what is not touched costs nothing but addresses */
};

static struct {
    int (*run)(const fp_spec *, fp_solo **, fp_result *, fp_failure *);
    int (*start)(const fp_spec *, fp_solo **, fp_failure *);
    int (*talk)(fp_solo *, const fp_talk *, fp_result *);
    int (*lend)(fp_solo *, int, void *, size_t);
    fp_solo *(*free)(fp_solo *);
    int (*pid)(const fp_solo *);
} library;

/* What a Berth holds, see solo.py. */
typedef struct {
    fp_spec *spec;
    fp_solo **solo;
    fp_result *result;
    fp_failure *failure;
} berth;

/* What runs of the drop-in are given. */
static environment packed;

static PyObject *os_module;
static PyObject *word_environ, *word_data, *word_event;

/*
 * _PyBytes_Resize(), which every CPython has and the stable ABI does not
 * promise: so it is looked for, and where it is not, bytes are copied.
 */
static int (*resize_bytes)(PyObject **, Py_ssize_t);

/* Change the length of a bytes object that nobody knows yet. It is NULL where that fails, with an exception. */
static int resize(PyObject **bytes, size_t wanted) {
    if (resize_bytes)
        return resize_bytes(bytes, (Py_ssize_t)wanted);
    size_t had = (size_t)PyBytes_Size(*bytes);
    PyObject *copy = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)wanted);
    if (copy)
        memcpy(PyBytes_AsString(copy), PyBytes_AsString(*bytes), had < wanted ? had : wanted);
    Py_DECREF(*bytes);
    *bytes = copy;
    return copy ? 0 : -1;
}

/* ---- output ------------------------------------------------------------------------ */

/* Room for the two streams of one process, as bytes objects that nobody knows yet. */
typedef struct {
    PyObject *of[2];
    size_t bytes[2];
} rooms;

static void give_up_rooms(rooms *rooms, fp_solo *solo) {
    for (int i = 0; i < 2; i++) {
        if (rooms->of[i] && solo)
            library.lend(solo, i + 1, NULL, 0);
        Py_CLEAR(rooms->of[i]);
    }
}

static size_t larger(size_t bytes) {
    if (bytes < SECOND_ROOM)
        return bytes < FIRST_ROOM ? FIRST_ROOM : SECOND_ROOM;
    return bytes + (bytes < DOUBLED_UP_TO ? bytes : bytes / 4);
}

/* More room for who wants it. 0, or -1 with an exception; its output is lost then. */
static int make_room(rooms *rooms, fp_solo *solo, const fp_result *result) {
    for (int i = 0; i < 2; i++) {
        if (!result->said[i].wants_room)
            continue;
        size_t bytes = larger(rooms->bytes[i]);
        if (rooms->of[i]) {
            if (resize(&rooms->of[i], bytes) < 0)
                library.lend(solo, i + 1, NULL, 0);
        } else {
            rooms->of[i] = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
        }
        if (!rooms->of[i])
            return -1;
        rooms->bytes[i] = bytes;
        library.lend(solo, i + 1, PyBytes_AsString(rooms->of[i]), bytes);
    }
    return 0;
}

/* What a stream has brought. The stream begins anew. */
static PyObject *take(rooms *rooms, fp_solo *solo, const fp_result *result, int i) {
    const fp_said *said = &result->said[i];
    PyObject *bytes = rooms->of[i];

    if (!bytes)
        return PyBytes_FromStringAndSize(said->first, said->first ? (Py_ssize_t)said->first_bytes : 0);
    library.lend(solo, i + 1, NULL, 0);
    rooms->of[i] = NULL;
    resize(&bytes, said->first_bytes);
    return bytes;
}

/* ---- runs ----------------------------------------------------------------------------- */

/* How run_to_end() went. */
enum course { ENDED, NOT_STARTED, RAISED };

/* RAISED: the process runs perhaps, and what it has said is lost. */
static enum course run_to_end(const berth *berth, rooms *rooms) {
    for (;;) {
        int r;
        Py_BEGIN_ALLOW_THREADS
        r = library.run(berth->spec, berth->solo, berth->result, berth->failure);
        Py_END_ALLOW_THREADS
        if (r >= 0)
            return ENDED;
        /*
         * Back in the interpreter, which runs the handler of the signal that woke us; that may raise. Where there is
         * always something to read nothing sleeps, so no signal wakes us.
         */
        if ((r == -EINTR || r == -ENOBUFS) && PyErr_CheckSignals() == 0 &&
            (r == -EINTR || make_room(rooms, *berth->solo, berth->result) == 0))
            continue;
        if (!PyErr_Occurred() && !*berth->solo)
            return NOT_STARTED;
        if (!PyErr_Occurred()) {
            errno = -r;
            if (r == -ENOMEM)
                PyErr_NoMemory();
            else
                PyErr_SetFromErrno(PyExc_OSError);
        }
        give_up_rooms(rooms, *berth->solo);
        return RAISED;
    }
}

/* (returncode or None, reason, output or None, error or None) */
static PyObject *ended(const berth *berth, rooms *rooms) {
    const fp_exit *exit = &berth->result->exit;
    PyObject *said[2] = {NULL, NULL};
    PyObject *answer = NULL;

    for (int i = 0; i < 2; i++)
        said[i] = berth->result->said[i].captured ? take(rooms, *berth->solo, berth->result, i) : Py_NewRef(Py_None);
    if (said[0] && said[1]) {
        bool is_known = exit->signal || exit->code >= 0;
        PyObject *code = is_known ? PyLong_FromLong(exit->signal ? -exit->signal : exit->code) : Py_NewRef(Py_None);
        answer = Py_BuildValue("NiOO", code, exit->reason, said[0], said[1]);
    }
    Py_XDECREF(said[0]);
    Py_XDECREF(said[1]);
    give_up_rooms(rooms, *berth->solo);
    if (answer && exit->state != FP_STATE_RUNNING && *berth->solo)
        *berth->solo = library.free(*berth->solo);
    return answer;
}

/* What ended() says; False: it could not be started, and the failure tells why. */
static PyObject *answer_of_run(const berth *berth) {
    rooms rooms = {0};
    switch (run_to_end(berth, &rooms)) {
    case ENDED:
        return ended(berth, &rooms);
    case NOT_STARTED:
        return Py_NewRef(Py_False);
    default:
        return NULL;
    }
}

/* ---- what is plain ---------------------------------------------------------------------- */

/* A list or tuple of one or more str, the first of them not empty, none with a NUL. */
bool direct_are_plain(PyObject *args) {
    bool is_list = PyList_CheckExact(args);
    if (!is_list && !PyTuple_CheckExact(args))
        return false;
    Py_ssize_t n = PySequence_Size(args);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *arg = is_list ? PyList_GetItem(args, i) : PyTuple_GetItem(args, i);
        Py_ssize_t bytes;
        if (!PyUnicode_CheckExact(arg))
            return false;
        const char *text = PyUnicode_AsUTF8AndSize(arg, &bytes);
        if (!text) { /* not text but bytes that came from outside */
            PyErr_Clear();
            return false;
        }
        if (memchr(text, '\0', (size_t)bytes) || (i == 0 && bytes == 0))
            return false;
    }
    return n > 0;
}

/* The strings one behind the other, each with its NUL. */
PyObject *direct_joined(PyObject *args) {
    bool is_list = PyList_CheckExact(args);
    Py_ssize_t n = PySequence_Size(args), total = 0, bytes;

    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyUnicode_AsUTF8AndSize(is_list ? PyList_GetItem(args, i) : PyTuple_GetItem(args, i), &bytes))
            return NULL;
        total += bytes + 1;
    }
    PyObject *block = PyBytes_FromStringAndSize(NULL, total);
    char *end = block ? PyBytes_AsString(block) : NULL;
    for (Py_ssize_t i = 0; block && i < n; i++) {
        PyObject *arg = is_list ? PyList_GetItem(args, i) : PyTuple_GetItem(args, i);
        const char *text = PyUnicode_AsUTF8AndSize(arg, &bytes);
        end = (char *)memcpy(end, text, (size_t)bytes + 1) + bytes + 1;
    }
    return block;
}

/* Is os.environ what was packed last? -1: there is no telling. */
static int is_fresh(const environment *packed) {
    PyObject *environ = PyObject_GetAttr(os_module, word_environ);
    PyObject *now = environ ? PyObject_GetAttr(environ, word_data) : NULL;
    int same = !now ? -1 : packed->seen ? PyObject_RichCompareBool(now, packed->seen, Py_EQ) : 0;

    Py_XDECREF(environ);
    Py_XDECREF(now);
    PyErr_Clear();
    return same;
}

int direct_refresh(environment *packed) {
    enum { MOST_TRIES = 3 };

    /* While it is being packed another thread may have kept an older one. */
    for (int i = 0; i < MOST_TRIES; i++) {
        int fresh = is_fresh(packed);
        if (fresh > 0)
            return 0;
        PyObject *done = PyObject_CallNoArgs(packed->repack);
        Py_XDECREF(done);
        if (!done || fresh < 0)
            return done ? 0 : -1;
    }
    return 0;
}

/* What a plain start holds on to until it is over. */
typedef struct {
    PyObject *block;
    PyObject *owner;
} held;

static void let_go(held *held) {
    Py_CLEAR(held->block);
    Py_CLEAR(held->owner);
}

/* The audit event, the arguments, the environment. 0, or -1 with an exception. */
static int prepare(const berth *berth, PyObject *args, held *held) {
    PyObject *audit = PySys_GetObject("audit"); /* borrowed */
    PyObject *list = PySequence_List(args);
    PyObject *heard = NULL;

    if (list && audit)
        heard = PyObject_CallFunctionObjArgs(audit, word_event, PyList_GetItem(list, 0), list, Py_None, Py_None, NULL);
    /* A hook may have changed the list, and what it makes of it counts. */
    if (heard && !direct_are_plain(list))
        PyErr_SetString(PyExc_TypeError, "an audit hook has put into the arguments what does not belong there");
    else if (heard)
        held->block = direct_joined(list);
    Py_XDECREF(heard);
    Py_XDECREF(list);
    if (!held->block || direct_refresh(&packed) < 0) {
        let_go(held);
        return -1;
    }
    held->owner = packed.owner;
    Py_INCREF(held->owner);
    berth->spec->args = PyBytes_AsString(held->block);
    berth->spec->args_bytes = (size_t)PyBytes_Size(held->block);
    berth->spec->env = packed.env;
    berth->spec->search_path = packed.search_path;
    return 0;
}

static bool is_word(PyObject *key, const char *word) {
    return PyUnicode_Check(key) && PyUnicode_CompareWithASCIIString(key, word) == 0;
}

/* What one of the three streams is to be. False: only Python knows. */
static bool set_stream(fp_spec *spec, int number, PyObject *value) {
    fp_stdio *stream = &spec->stdio[number];

    if (value == Py_None) {
        stream->kind = FP_STDIO_INHERIT;
        return true;
    }
    if (!PyLong_CheckExact(value))
        return false;
    int overflow;
    long wanted = PyLong_AsLongAndOverflow(value, &overflow);
    if (overflow || wanted > INT32_MAX)
        return false;
    switch (wanted) {
    case -1:
        stream->kind = FP_STDIO_PIPE;
        return true;
    case -3:
        stream->kind = FP_STDIO_DEVNULL;
        return true;
    case -2:
        stream->kind = FP_STDIO_STDOUT;
        return number == 2;
    default:
        stream->kind = FP_STDIO_FD;
        stream->fd = (int32_t)wanted;
        return wanted >= 0;
    }
}

/* From the keywords of run(): streams, and nothing else. */
static bool set_streams(fp_spec *spec, PyObject *keywords, bool captures_both) {
    static const char *const words[] = {"stdin", "stdout", "stderr"};
    bool merged = false;
    Py_ssize_t at = 0;
    PyObject *key, *value;

    for (int i = 0; i < 3; i++)
        spec->stdio[i].kind = captures_both && i > 0 ? FP_STDIO_PIPE : FP_STDIO_INHERIT;
    while (PyDict_Next(keywords, &at, &key, &value)) {
        int number = 0;
        while (number < 3 && !is_word(key, words[number]))
            number++;
        if (number == 3 || (captures_both && number > 0 && value != Py_None))
            return false;
        if (!(captures_both && number > 0) && !set_stream(spec, number, value))
            return false;
        merged = merged || (number == 2 && spec->stdio[2].kind == FP_STDIO_STDOUT);
    }
    /* Nothing to be fed with; and where the output is not ours to know, the error goes its own way. */
    return spec->stdio[0].kind != FP_STDIO_PIPE && !(merged && spec->stdio[1].kind == FP_STDIO_INHERIT);
}

/* ---- the functions ------------------------------------------------------------------------ */

static const berth *berth_of(PyObject *pointers) {
    return (const berth *)PyBytes_AsString(pointers);
}

static PyObject *run(PyObject *module, PyObject *pointers) {
    (void)module;
    const berth *berth = berth_of(pointers);
    return berth ? answer_of_run(berth) : NULL;
}

static PyObject *run_plain(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    held held = {0};
    const berth *berth = n == 4 ? berth_of(args[0]) : NULL;
    if (!berth || !PyDict_Check(args[2]))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "run_plain(pointers, args, keywords, both)");
    if (!direct_are_plain(args[1]) || !set_streams(berth->spec, args[2], args[3] == Py_True))
        Py_RETURN_NONE;
    if (prepare(berth, args[1], &held) < 0)
        return NULL;
    PyObject *answer = answer_of_run(berth);
    let_go(&held);
    return answer;
}

/* Its pid; None: not plain; False: it has not been started. */
static PyObject *start_plain(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    held held = {0};
    const berth *berth = n == 5 ? berth_of(args[0]) : NULL;
    if (!berth)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "start_plain(pointers, args, in, out, err)");
    if (!direct_are_plain(args[1]))
        Py_RETURN_NONE;
    for (int i = 0; i < 3; i++) {
        long fd = PyLong_AsLong(args[i + 2]);
        if (fd == -1 && PyErr_Occurred())
            return NULL;
        berth->spec->stdio[i].kind = fd == -1 ? FP_STDIO_INHERIT : FP_STDIO_FD;
        berth->spec->stdio[i].fd = (int32_t)fd;
    }
    if (prepare(berth, args[1], &held) < 0)
        return NULL;
    int r;
    Py_BEGIN_ALLOW_THREADS
    r = library.start(berth->spec, berth->solo, berth->failure);
    Py_END_ALLOW_THREADS
    let_go(&held);
    return r < 0 ? Py_NewRef(Py_False) : PyLong_FromLong(library.pid(*berth->solo));
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* The exception that is set, which is not set any more. */
static PyObject *taken_exception(void) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
}

/*
 * Run the handlers of signals, which may raise. True: one of them has talked with the same process, and has taken
 * what had come, out of our rooms too.
 */
static bool run_handlers(rooms *rooms, fp_result *result) {
    enum { NOT_TOUCHED = -7 };
    int state = result->exit.state;

    result->exit.state = NOT_TOUCHED;
    PyErr_CheckSignals();
    if (result->exit.state == NOT_TOUCHED) {
        result->exit.state = state;
        return false;
    }
    for (int i = 0; i < 2; i++) {
        Py_CLEAR(rooms->of[i]);
        rooms->bytes[i] = 0;
        result->said[i].first = NULL;
        result->said[i].first_bytes = 0;
        result->said[i].wants_room = 0;
    }
    return true;
}

/*
 * (what fp_solo_talk() says, new output, new error, what a signal handler has raised or None)
 *
 * Goes on by itself when it was woken for a signal, or to look for one: what has come is to be in one piece.
 */
static PyObject *talk(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    (void)module;
    void *pointers[3] = {0};
    rooms rooms = {0};
    PyObject *raised = NULL;
    int r;

    for (int i = 0; n == 3 && i < 3; i++)
        pointers[i] = PyLong_AsVoidPtr(args[i]);
    if (n != 3 || PyErr_Occurred())
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "talk(solo, talk, result)");
    fp_solo *solo = pointers[0];
    fp_talk *wish = pointers[1];
    fp_result *result = pointers[2];
    int64_t until = wish->timeout_ns < 0 ? -1 : now_ns() + wish->timeout_ns;
    for (;;) {
        Py_BEGIN_ALLOW_THREADS
        r = library.talk(solo, wish, result);
        Py_END_ALLOW_THREADS
        if (r != -ENOBUFS && r != -EINTR)
            break;
        bool took_over = run_handlers(&rooms, result);
        if (PyErr_Occurred()) {
            raised = taken_exception();
            break;
        }
        if (r == -ENOBUFS && !took_over && make_room(&rooms, solo, result) < 0) {
            give_up_rooms(&rooms, solo);
            return NULL;
        }
        int64_t left = until < 0 ? -1 : until - now_ns();
        wish->timeout_ns = until >= 0 && left < 0 ? 0 : left;
    }
    PyObject *output = take(&rooms, solo, result, 0);
    PyObject *error = output ? take(&rooms, solo, result, 1) : NULL;
    give_up_rooms(&rooms, solo);
    library.lend(solo, 1, NULL, 0);
    library.lend(solo, 2, NULL, 0);
    if (error)
        return Py_BuildValue("iNNN", r, output, error, raised ? raised : Py_NewRef(Py_None));
    Py_XDECREF(raised);
    Py_XDECREF(output);
    return NULL;
}

int direct_keep(environment *packed, PyObject *seen, PyObject *owner, PyObject *env, PyObject *search_path) {
    void *env_address = PyLong_AsVoidPtr(env);
    void *path_address = PyLong_AsVoidPtr(search_path);
    if (PyErr_Occurred())
        return -1;
    PyObject *old_seen = packed->seen, *old_owner = packed->owner;
    packed->seen = Py_NewRef(seen);
    packed->owner = Py_NewRef(owner);
    packed->env = env_address;
    packed->search_path = path_address;
    Py_XDECREF(old_seen);
    Py_XDECREF(old_owner);
    return 0;
}

static PyObject *keep_environment(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *seen, *owner, *env, *search_path;
    if (!PyArg_ParseTuple(args, "OOOO", &seen, &owner, &env, &search_path))
        return NULL;
    return direct_keep(&packed, seen, owner, env, search_path) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *set_up(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *function[6], *packs;
    if (!PyArg_ParseTuple(args, "OOOOOOO", &function[0], &function[1], &function[2], &function[3], &function[4],
                          &function[5], &packs))
        return NULL;
    void *address[6];
    for (int i = 0; i < 6; i++)
        address[i] = PyLong_AsVoidPtr(function[i]);
    if (PyErr_Occurred())
        return NULL;
    memcpy(&library.run, &address[0], sizeof address[0]);
    memcpy(&library.start, &address[1], sizeof address[1]);
    memcpy(&library.talk, &address[2], sizeof address[2]);
    memcpy(&library.lend, &address[3], sizeof address[3]);
    memcpy(&library.free, &address[4], sizeof address[4]);
    memcpy(&library.pid, &address[5], sizeof address[5]);
    void *found = dlsym(RTLD_DEFAULT, "_PyBytes_Resize");
    memcpy(&resize_bytes, &found, sizeof found);
    packed.repack = Py_NewRef(packs);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"set_up", set_up, METH_VARARGS, NULL},
    {"keep_environment", keep_environment, METH_VARARGS, NULL},
    {"run", run, METH_O, NULL},
    {"run_plain", (PyCFunction)(void (*)(void))run_plain, METH_FASTCALL, NULL},
    {"start_plain", (PyCFunction)(void (*)(void))start_plain, METH_FASTCALL, NULL},
    {"talk", (PyCFunction)(void (*)(void))talk, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fastproc._native._direct",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__direct(void) {
    PyObject *module = PyModule_Create(&definition);
    os_module = PyImport_ImportModule("os");
    word_environ = PyUnicode_InternFromString("environ");
    word_data = PyUnicode_InternFromString("_data");
    word_event = PyUnicode_InternFromString("subprocess.Popen");
    bool ready = os_module && word_environ && word_data && word_event;
    if (module && (!ready || ledger_add_to(module) < 0))
        Py_CLEAR(module);
    return module;
}
