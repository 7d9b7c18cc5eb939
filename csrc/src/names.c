/*
 * names.c: words for stages, reasons, signals and errors.
 */
#include <signal.h>
#include <string.h>

#include "host.h"

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

/* Other libraries do not know the question, let alone the answer. */
#ifdef __GLIBC_PREREQ
#define HAS_ERROR_WORDS __GLIBC_PREREQ(2, 32)
#else
#define HAS_ERROR_WORDS 0
#endif

static const char *const stages[FP_STAGE_COUNT] = {
    [FP_STAGE_NONE] = "none",
    [FP_STAGE_REQUEST] = "request",
    [FP_STAGE_PIPE] = "pipe",
    [FP_STAGE_CLONE] = "clone",
    [FP_STAGE_PRE_EXEC] = "pre-exec",
    [FP_STAGE_SESSION] = "session",
    [FP_STAGE_CGROUP] = "cgroup",
    [FP_STAGE_FDS] = "fds",
    [FP_STAGE_RLIMIT] = "rlimit",
    [FP_STAGE_NICE] = "nice",
    [FP_STAGE_AFFINITY] = "affinity",
    [FP_STAGE_CWD] = "cwd",
    [FP_STAGE_IDS] = "ids",
    [FP_STAGE_SANDBOX] = "sandbox",
    [FP_STAGE_SIGNALS] = "signals",
    [FP_STAGE_EXEC] = "exec",
    [FP_STAGE_SUPERVISOR] = "supervisor",
};

static const char *const reasons[FP_REASON_COUNT] = {
    [FP_REASON_NONE] = "none",
    [FP_REASON_EXITED] = "exited",
    [FP_REASON_SIGNALED] = "signaled",
    [FP_REASON_TIMEOUT] = "timeout",
    [FP_REASON_IDLE_TIMEOUT] = "idle-timeout",
    [FP_REASON_TERMINATED] = "terminated",
    [FP_REASON_CANCELLED] = "cancelled",
    [FP_REASON_OUTPUT_LIMIT] = "output-limit",
    [FP_REASON_CPU_LIMIT] = "cpu-limit",
    [FP_REASON_OOM] = "oom",
    [FP_REASON_UNKNOWN] = "unknown",
};

/* clang-format off */
static const char *const signals[] = {
    [SIGHUP] = "SIGHUP", [SIGINT] = "SIGINT", [SIGQUIT] = "SIGQUIT", [SIGILL] = "SIGILL",
    [SIGTRAP] = "SIGTRAP", [SIGABRT] = "SIGABRT", [SIGBUS] = "SIGBUS", [SIGFPE] = "SIGFPE",
    [SIGKILL] = "SIGKILL", [SIGUSR1] = "SIGUSR1", [SIGSEGV] = "SIGSEGV", [SIGUSR2] = "SIGUSR2",
    [SIGPIPE] = "SIGPIPE", [SIGALRM] = "SIGALRM", [SIGTERM] = "SIGTERM",
    [SIGCHLD] = "SIGCHLD", [SIGCONT] = "SIGCONT", [SIGSTOP] = "SIGSTOP", [SIGTSTP] = "SIGTSTP",
    [SIGTTIN] = "SIGTTIN", [SIGTTOU] = "SIGTTOU", [SIGURG] = "SIGURG", [SIGXCPU] = "SIGXCPU",
    [SIGXFSZ] = "SIGXFSZ", [SIGVTALRM] = "SIGVTALRM", [SIGPROF] = "SIGPROF", [SIGWINCH] = "SIGWINCH",
    [SIGIO] = "SIGIO", [SIGPWR] = "SIGPWR", [SIGSYS] = "SIGSYS",
#ifdef SIGSTKFLT
    [SIGSTKFLT] = "SIGSTKFLT",
#endif
    /* The kernel's 32 and 33 belong to libc, which begins to count behind them. */
    [34] = "SIGRTMIN", [35] = "SIGRTMIN+1", [36] = "SIGRTMIN+2", [37] = "SIGRTMIN+3",
    [38] = "SIGRTMIN+4", [39] = "SIGRTMIN+5", [40] = "SIGRTMIN+6", [41] = "SIGRTMIN+7",
    [42] = "SIGRTMIN+8", [43] = "SIGRTMIN+9", [44] = "SIGRTMIN+10", [45] = "SIGRTMIN+11",
    [46] = "SIGRTMIN+12", [47] = "SIGRTMIN+13", [48] = "SIGRTMIN+14", [49] = "SIGRTMIN+15",
    [50] = "SIGRTMAX-14", [51] = "SIGRTMAX-13", [52] = "SIGRTMAX-12", [53] = "SIGRTMAX-11",
    [54] = "SIGRTMAX-10", [55] = "SIGRTMAX-9", [56] = "SIGRTMAX-8", [57] = "SIGRTMAX-7",
    [58] = "SIGRTMAX-6", [59] = "SIGRTMAX-5", [60] = "SIGRTMAX-4", [61] = "SIGRTMAX-3",
    [62] = "SIGRTMAX-2", [63] = "SIGRTMAX-1", [64] = "SIGRTMAX",
};
/* clang-format on */

static const char *word(const char *const *words, size_t n, int index, const char *unknown) {
    return index >= 0 && (size_t)index < n && words[index] ? words[index] : unknown;
}

const char *fp_stage_name(int stage) {
    return word(stages, FP_STAGE_COUNT, stage, "unknown");
}

const char *fp_reason_name(int reason) {
    return word(reasons, FP_REASON_COUNT, reason, "unknown");
}

const char *fp_signal_name(int sig) {
    return word(signals, sizeof signals / sizeof *signals, sig, "unknown signal");
}

/* Takes errno and -errno, since our functions return the latter. */
const char *fp_strerror(int error) {
    const char *text = NULL;

    if (error < 0 && error > -4096)
        error = -error;
#if HAS_ERROR_WORDS
    text = strerrordesc_np(error);
#else
    /* Of a known error it is a constant, so threads do not disturb each other. */
    text = strerror(error);
#endif
    return text ? text : "unknown error";
}

const char *fp_version(void) {
    return TEXT(FP_VERSION_MAJOR) "." TEXT(FP_VERSION_MINOR) "." TEXT(FP_VERSION_PATCH);
}
